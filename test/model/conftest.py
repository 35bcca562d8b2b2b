"""Tiny speech models, built as the task builds them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import pytest
import torch

from espnet_mtla.model.speech import DecoderOnlySpeechModel
from test.support.tiny_speech import ENCODERS, MTLA, TOKENS


@pytest.fixture
def options() -> Callable[..., Namespace]:
    """Return options of a tiny model on features of width 16, with ``changes``."""

    def make(encoder: str = "none", **changes: object) -> Namespace:
        settings = {
            "token_list": TOKENS,
            "frontend": None,
            "frontend_conf": {},
            "input_size": 16,
            "specaug": None,
            "specaug_conf": {},
            "normalize": None,
            "normalize_conf": {},
            "encoder": None if encoder == "none" else encoder,
            "encoder_conf": dict(ENCODERS[encoder]),
            "projector_conf": {"stack": 2},
            "decoder_conf": {
                "embed_dim": 16,
                "num_layers": 2,
                "num_heads": 2,
                "ffn_dim": 32,
                "dropout": 0.0,
                "attention": "mtla",
                "attention_conf": MTLA,
            },
            "ctc_conf": {},
            "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        }
        return Namespace(**{**settings, **changes})

    return make


@pytest.fixture
def build(options: Callable[..., Namespace]) -> Callable[..., DecoderOnlySpeechModel]:
    """A tiny model in float64, in evaluation mode."""
    from espnet_mtla.model.build import build_model

    def make(encoder: str = "none", **changes: object) -> DecoderOnlySpeechModel:
        torch.manual_seed(0)
        return build_model(options(encoder, **changes)).double().eval()

    return make

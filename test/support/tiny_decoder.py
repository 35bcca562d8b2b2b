"""A decoder of two layers in float64, and rows of different lengths for it."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from test.support.attention_types import HEADS, TYPES, WIDTH

VOCAB = 11
LLAMA_LAYERS = {
    **{"norm": "rmsnorm", "norm_eps": 1e-6, "feed_forward": "swiglu"},
    **{"ffn_bias": False, "scale_embedding": False},
}
KINDS = (*TYPES, *(f"llama/{kind}" for kind in ("gqa_llama", "mtla_converted")))
"""Attention types in the layers of the paper; ``llama/...``: in those of a Llama."""


def make(kind: str, mode: str, **settings: object) -> DecoderOnlyTransformer:
    torch.manual_seed(11)
    if kind.startswith("llama/"):
        kind = kind.removeprefix("llama/")
        settings = {**LLAMA_LAYERS, **settings}
    name, conf = TYPES[kind]
    config = DecoderConfig(
        VOCAB,
        WIDTH,
        num_layers=2,
        num_heads=HEADS,
        ffn_dim=48,
        attention=name,
        attention_conf=conf,
        prompt_mode=mode,
        **settings,
    )
    return DecoderOnlyTransformer(config).double().eval()


def ragged(lengths: list[int], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with NaN behind their frames, their lengths, and tokens."""
    prompt = torch.full((len(lengths), max(lengths), WIDTH), float("nan"))
    prompt = prompt.double()
    for row, length in enumerate(lengths):
        prompt[row, :length] = torch.randn(length, WIDTH, dtype=torch.float64)
    return (
        prompt,
        torch.tensor(lengths),
        torch.randint(0, VOCAB, (len(lengths), tokens)),
    )

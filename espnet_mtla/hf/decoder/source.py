"""Load a language model of Transformers whose layers the decoder can compute."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig
from espnet_mtla.hf.llama_style import load_causal_model, read_llama_style

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", LlamaMTLAConfig.model_type)
"""Architectures with Llama's layers; :func:`read_decoder_config` checks them."""

log = logging.getLogger(__name__)


def load_language_model(name: str) -> PreTrainedModel:
    """Load a checkpoint in float32, whatever the type of its weights.

    Args:
        name: folder, or name on the hub.

    Raises:
        UserError: there is no checkpoint, it is a pickle, lacks weights, or has a
            feature that the decoder does not compute.
    """
    config = read_decoder_config(name)
    stored = stored_dtype(config)
    if stored != torch.float32:
        log.info("%s: weights of %s are loaded as float32", name, stored)
    return load_causal_model(name, torch.float32)


def sketch_language_model(name: str) -> PreTrainedModel:
    """Return a model of a checkpoint's configuration, without weights (on "meta").

    Raises:
        UserError: see :func:`load_language_model`; weights are not looked at.
    """
    config = read_decoder_config(name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def stored_dtype(config: PretrainedConfig) -> torch.dtype:
    """Return the type of a checkpoint's weights; float32 if it does not say."""
    stored: Any = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(stored, str):
        stored = getattr(torch, stored)
    return stored or torch.float32


def read_decoder_config(name: str) -> PretrainedConfig:
    """Read the configuration of a checkpoint that the decoder can compute.

    Raises:
        UserError: there is none, or names the feature that is not supported.
    """
    config = read_llama_style(name, MODEL_TYPES, use="used in a decoder")
    if config.hidden_act != "silu":
        raise UserError(
            f"{name}: hidden_act {config.hidden_act!r} can't be used in a decoder; "
            "silu can"
        )
    return config

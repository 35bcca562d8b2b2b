"""Load a language model of Transformers whose layers the decoder can compute."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.configuration import (
    ROPE_TYPES,
    LlamaMTLAConfig,
    rope_settings,
)
from espnet_mtla.hf.loading import checked, read_config

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", LlamaMTLAConfig.model_type)
"""Architectures with Llama's layers; :func:`check_config` checks further features."""

log = logging.getLogger(__name__)


def load_language_model(name: str) -> PreTrainedModel:
    """Load a checkpoint in float32, whatever the type of its weights.

    Args:
        name: folder, or name on the hub.

    Raises:
        UserError: there is no checkpoint, it is a pickle, lacks weights, or has a
            feature that the decoder does not compute.
    """
    config = read_config(name)
    check_config(name, config)
    stored = stored_dtype(config)
    if stored != torch.float32:
        log.info("%s: weights of %s are loaded as float32", name, stored)
    load = AutoModelForCausalLM.from_pretrained
    return checked(load, name, dtype=torch.float32, trust_remote_code=False).eval()


def sketch_language_model(name: str) -> PreTrainedModel:
    """Return a model of a checkpoint's configuration, without weights (on "meta").

    Raises:
        UserError: see :func:`load_language_model`; weights are not looked at.
    """
    config = read_config(name)
    check_config(name, config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def stored_dtype(config: PretrainedConfig) -> torch.dtype:
    """Return the type of a checkpoint's weights; float32 if it does not say."""
    stored: Any = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(stored, str):
        stored = getattr(torch, stored)
    return stored or torch.float32


def check_config(name: str, config: PretrainedConfig) -> None:
    """Raise :class:`UserError` naming the feature that the decoder does not compute."""
    if config.model_type not in MODEL_TYPES:
        raise UserError(
            f"{name}: model_type {config.model_type!r} is no language model that can "
            f"be a decoder; {', '.join(MODEL_TYPES)} can"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{name}: quantised weights are not supported; use the original ones"
        )
    if config.hidden_act != "silu":
        raise UserError(
            f"{name}: hidden_act {config.hidden_act!r} is not supported; silu is"
        )
    _check_window(name, config)
    rope = rope_settings(config)
    if rope["rope_type"] not in ROPE_TYPES:
        raise UserError(
            f"{name}: rope_type {rope['rope_type']!r} is not supported; "
            f"{', '.join(ROPE_TYPES)} are"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{name}: partial_rotary_factor is not supported")


def _check_window(name: str, config: PretrainedConfig) -> None:
    """Refuse attention over the last tokens alone, if it is less than all positions."""
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return
    if window < config.max_position_embeddings:
        raise UserError(
            f"{name}: sliding_window={window} is not supported: the decoder attends to "
            f"all of {config.max_position_embeddings} positions"
        )

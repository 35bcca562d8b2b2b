"""Checkpoints of Transformers with Llama's layers: which can be used, and loading."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.configuration import ROPE_TYPES, rope_settings
from espnet_mtla.hf.loading import checked, read_config

ADAPTERS = "adapter_config.json"
"""File of PEFT's, in a folder of adapters."""


def load_causal_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a language model in evaluation mode.

    Args:
        name: folder, or name on the hub.
        dtype: of its weights.

    Raises:
        UserError: there is no checkpoint, it is a pickle, or lacks weights.
    """
    load = AutoModelForCausalLM.from_pretrained
    return checked(load, name, dtype=dtype, trust_remote_code=False).eval()


def read_llama_style(
    name: str, model_types: Collection[str], use: str
) -> PretrainedConfig:
    """Read a checkpoint's configuration, and check it by :func:`check_llama_style`.

    Raises:
        UserError: there is none, it is one of adapters, or cannot be used.
    """
    if (Path(name) / ADAPTERS).is_file():
        raise UserError(
            f"{name}: has unmerged adapters of PEFT ({ADAPTERS}); merge them "
            "(merge_and_unload), and save the whole model"
        )
    config = read_config(name)
    check_llama_style(name, config, model_types, use)
    return config


def check_llama_style(
    name: str, config: PretrainedConfig, model_types: Collection[str], use: str
) -> None:
    """Require an architecture and features that this package computes.

    Args:
        name: of the checkpoint, for messages.
        config: its configuration.
        model_types: architectures that can be used.
        use: what is to be done, for messages: "converted", "used in a decoder".

    Raises:
        UserError: names the feature that cannot be used.
    """
    if config.model_type not in model_types:
        raise UserError(
            f"{name}: model_type {config.model_type!r} can't be {use}; "
            f"{', '.join(model_types)} can"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{name}: quantised weights can't be {use}; take full-precision weights"
        )
    _check_window(name, config, use)
    rope = rope_settings(config)
    if rope["rope_type"] not in ROPE_TYPES:
        raise UserError(
            f"{name}: rope_type {rope['rope_type']!r} can't be {use}; "
            f"{', '.join(ROPE_TYPES)} can"
        )
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{name}: partial_rotary_factor can't be {use}")


def _check_window(name: str, config: PretrainedConfig, use: str) -> None:
    """Refuse attention over the last tokens alone, if it is less than all positions."""
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return
    if window < config.max_position_embeddings:
        raise UserError(
            f"{name}: sliding_window={window} can't be {use}: attention here is over "
            f"all of {config.max_position_embeddings} positions"
        )

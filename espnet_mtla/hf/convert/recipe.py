"""Rename the weights of a recipe's decoder to the reference's names, and back.

The reference's speech models are fairseq's: pre-norm layers of a Transformer decoder
without cross-attention. Their attention has our names. Encoder, front-end and projector
differ in structure and are left out.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError

# Names of the decoder and of a layer: ours, the reference's.
DECODER = (
    ("embedding.weight", "embed_tokens.weight"),
    ("output.weight", "output_projection.weight"),
    ("norm.", "layer_norm."),
)
LAYER = (
    ("attention_norm.", "self_attn_layer_norm."),
    ("attention.", "self_attn."),
    ("ffn_norm.", "final_layer_norm."),
    ("ffn.0.", "fc1."),
    ("ffn.3.", "fc2."),
)
# Entries of fairseq's state dict that are not weights.
NO_WEIGHT = re.compile(r"decoder\.(version|embed_positions\._float_tensor)$")


def to_reference(source: Path, output: Path) -> int:
    """Write a recipe's decoder as a fairseq checkpoint.

    Returns:
        The number of tensors written; those outside the decoder are left out.
    """
    weights = _rename(source, read_checkpoint(source), old=0, new=1)
    with atomic_file(output, "wb") as stream:
        torch.save({"model": weights}, stream)
    return len(weights)


def from_reference(source: Path, output: Path) -> int:
    """Write a fairseq decoder as a recipe's checkpoint.

    Returns:
        The number of tensors written; those outside the decoder are left out.
    """
    saved = read_checkpoint(source)
    weights = rename_decoder(source, saved.get("model", saved))
    with atomic_file(output, "wb") as stream:
        torch.save(weights, stream)
    return len(weights)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without executing code in it."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: not a checkpoint of weights alone ({reason})"
        ) from error
    if not isinstance(saved, dict):
        raise UserError(f"{path}: holds a {type(saved).__name__}, a dictionary needed")
    return saved


def rename_decoder(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a fairseq decoder under our names.

    Raises:
        UserError: one of them has no counterpart; begins with ``path``.
    """
    return _rename(path, weights, old=1, new=0)


def _rename(
    path: Path, weights: Mapping[str, Tensor], old: int, new: int
) -> dict[str, Tensor]:
    """Rename decoder weights; ``old`` and ``new`` are columns of the name tables."""
    renamed = {}
    for key, value in weights.items():
        if not key.startswith("decoder.") or NO_WEIGHT.match(key):
            continue
        renamed[_new_name(path, key, old, new)] = value
    if not renamed:
        raise UserError(f"{path}: holds no weights of a decoder (decoder....)")
    return renamed


def _new_name(path: Path, key: str, old: int, new: int) -> str:
    """Return the other name of one weight; raise :class:`UserError` without one."""
    match = re.match(r"(decoder\.layers\.\d+\.)(.*)", key)
    start, rest = match.groups() if match else ("decoder.", key[len("decoder.") :])
    for names in LAYER if match else DECODER:
        if rest.startswith(names[old]):
            return start + names[new] + rest[len(names[old]) :]
    raise UserError(f"{path}: {key} has no counterpart in the other decoder")

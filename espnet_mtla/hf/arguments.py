"""What a call of the model may be given: one clear line else."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.hf.cache import TemporalLatentCache


def check_tokens(ids: Tensor | None, vectors: Tensor | None, width: int) -> None:
    """Tokens ``(B, L)``, or vectors ``(B, L, width)`` in their place.

    Raises:
        UserError: both or none of them, or another shape or type of numbers.
    """
    if ids is not None and vectors is None:
        name, x, shape, kind = "input_ids", ids, "(batch, tokens)", "whole numbers"
        fits = x.dim() == 2 and x.dtype in (torch.int32, torch.int64)
    elif vectors is not None and ids is None:
        name, x, shape = "inputs_embeds", vectors, f"(batch, tokens, {width})"
        fits, kind = x.dim() == 3 and x.size(2) == width, "floats"
        fits = fits and x.is_floating_point()
    else:
        raise UserError("input_ids, inputs_embeds: give one of them")
    if not fits or x.size(1) == 0:
        raise UserError(
            f"{name}: {tuple(x.shape)} of {x.dtype} given, {shape} of {kind}, one "
            "token at least, needed"
        )


def check_places(
    mask: Tensor | None,
    position: Tensor | None,
    shape: torch.Size,
    cache: TemporalLatentCache | None,
) -> None:
    """The mask and the rotary positions of ``shape``, rows and tokens.

    Raises:
        UserError: another shape, or a mask to add to scores.
    """
    rows, new = shape
    if position is not None and position.shape not in ((1, new), (rows, new)):
        raise UserError(
            f"position_ids: {tuple(position.shape)} given, (1, {new}) or ({rows}, "
            f"{new}) needed"
        )
    if mask is None:
        return
    flat = mask.dim() == 2 and mask.size(0) == rows
    if not flat or not _counts(mask.size(1), new, cache):
        raise UserError(
            f"attention_mask: {tuple(mask.shape)} given, 0 and 1 of shape ({rows}, "
            "tokens) needed, of the new tokens or of all so far; which past tokens are "
            "seen is the attention's own affair"
        )
    looking = not torch.compiler.is_compiling()
    if looking and mask.is_floating_point() and bool((mask < 0).any()):
        raise UserError("attention_mask: values below 0 given, 0 and 1 needed")


def _counts(width: int, new: int, cache: TemporalLatentCache | None) -> bool:
    """Whether so many columns are those of the new tokens, or of all so far."""
    if width == new or cache is None:
        return width == new
    if torch.compiler.is_compiling():  # where a number on the device is not looked at
        return width > new
    return width == cache.get_seq_length() + new

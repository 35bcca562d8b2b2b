"""Validate the arguments of the models' ``forward``."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama.cache import TemporalLatentCache
from espnet_mtla.settings.checks import plain


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Return the cache of a call, which has two keywords for it.

    Raises:
        UserError: two different caches.
    """
    if cache is None:
        return past_key_values
    if past_key_values is not None and past_key_values is not cache:
        raise UserError(
            "cache, past_key_values: two different caches given for two names of one "
            "argument; leave past_key_values out"
        )
    return cache


def check_columns(columns: object, new: int, cache: TemporalLatentCache | None) -> None:
    """Check ``cache_position``, the columns of the new tokens, ``(new,)``.

    ``generate`` of Transformers 4 passes it. The columns follow from the cache, so it
    is only checked.

    Raises:
        UserError: these are not the next columns.
    """
    if columns is None:
        return
    shown: object = columns
    first = 0
    fits = isinstance(columns, Tensor) and columns.shape == (new,)
    if isinstance(columns, Tensor) and not torch.compiler.is_compiling():
        shown = columns.tolist()  # values cannot be read in compiled code
        first = 0 if cache is None else cache.get_seq_length()
        fits = fits and shown == list(range(first, first + new))
    if not fits:
        raise UserError(
            f"cache_position: {shown} given, the {new} new tokens have the columns "
            f"from {first} on; leave it out"
        )


def check_segments(segments: object) -> None:
    """Check ``token_type_ids``, which must say that all tokens are of one segment.

    Transformers 4's own tokenisers return such zeros for any model.

    Raises:
        UserError: a second segment, which the model would not see.
    """
    if segments is None:
        return
    if not isinstance(segments, Tensor) or segments.count_nonzero() > 0:
        raise UserError(
            "token_type_ids: other than 0 given, the model knows no segments; leave "
            "them out (return_token_type_ids=False)"
        )


def select_columns(states: Tensor, columns: int | Tensor) -> Tensor:
    """Select by ``logits_to_keep`` from ``states (B, L, D)``.

    Args:
        states: of all new tokens.
        columns: number of columns at the end (0: all), columns of all rows ``(K,)`` or
            of each row ``(B, K)``, or a mask ``(B, L)``, whose result is ``(N, D)``.

    Raises:
        UserError: another shape or type.
    """
    columns = columns if isinstance(columns, Tensor) else plain(columns)
    if isinstance(columns, int) and not isinstance(columns, bool) and columns >= 0:
        return states[:, -columns:] if columns else states
    if isinstance(columns, Tensor) and not columns.is_floating_point():
        if columns.dim() == 1 and columns.dtype != torch.bool:
            return states[:, columns]
        if columns.dim() == 2 and columns.dtype == torch.bool:
            return states[columns]
        if columns.dim() == 2:
            return torch.take_along_dim(states, columns.unsqueeze(-1), dim=1)
    shown: object = columns
    if isinstance(columns, Tensor):
        shown = f"{tuple(columns.shape)} of {columns.dtype}"
    raise UserError(
        f"logits_to_keep: {shown} given, a number >= 0, columns (K,) or (batch, K), or "
        "a mask (batch, tokens) of booleans needed"
    )


def check_tokens(ids: Tensor | None, vectors: Tensor | None, width: int) -> None:
    """Require tokens ``(B, L)``, or vectors ``(B, L, width)`` in their place.

    Args:
        ids: ``input_ids``.
        vectors: ``inputs_embeds``.
        width: of the model.

    Raises:
        UserError: both or none of them, or another shape or dtype.
    """
    if ids is not None and vectors is None:
        name, x, shape, numbers = "input_ids", ids, "(batch, tokens)", "whole numbers"
        fits = x.dim() == 2 and x.dtype in (torch.int32, torch.int64)
    elif vectors is not None and ids is None:
        name, x, shape = "inputs_embeds", vectors, f"(batch, tokens, {width})"
        fits, numbers = x.dim() == 3 and x.size(2) == width, "floats"
        fits = fits and x.is_floating_point()
    else:
        raise UserError("input_ids, inputs_embeds: give one of them")
    if not fits or x.size(1) == 0:
        raise UserError(
            f"{name}: {tuple(x.shape)} of {x.dtype} given, {shape} of {numbers}, one "
            "token at least, needed"
        )


def check_mask_and_positions(
    mask: Tensor | None,
    position: Tensor | None,
    shape: torch.Size,
    cache: TemporalLatentCache | None,
) -> None:
    """Validate the attention mask and the rotary positions.

    Args:
        mask: ``attention_mask``: 1 at tokens, 0 at padding.
        position: ``position_ids``.
        shape: rows and new tokens.
        cache: its tokens may be in the mask too.

    Raises:
        UserError: another shape, or an additive mask.
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
    if not flat or not _covers_tokens(mask.size(1), new, cache):
        raise UserError(
            f"attention_mask: {tuple(mask.shape)} given, 0 and 1 of shape ({rows}, "
            "tokens) needed, of the new tokens or of all so far; a mask of pairs of "
            "tokens is not supported"
        )
    eager = not torch.compiler.is_compiling()  # compiled code cannot read values
    if eager and mask.is_floating_point() and bool((mask < 0).any()):
        raise UserError("attention_mask: values below 0 given, 0 and 1 needed")


def _covers_tokens(width: int, new: int, cache: TemporalLatentCache | None) -> bool:
    """Return True if a mask of ``width`` covers the new tokens, or all so far."""
    if width == new or cache is None:
        return width == new
    if torch.compiler.is_compiling():  # the cache's length is not read here
        return width > new
    return width == cache.get_seq_length() + new

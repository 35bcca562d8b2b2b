"""What a call of the reference's interface may be given: one clear line else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.attention.interface import ReferenceInterface


def check_tokens(module: ReferenceInterface, query: Tensor, key: Tensor) -> None:
    """Query ``(B, U, D)`` and key ``(B, T, D)`` fit together and fit the module.

    Raises:
        UserError: another shape, another number of rows, or another type of numbers.
    """
    width = module.settings.embed_dim
    fits = all(x.dim() == 3 and x.size(2) == width for x in (query, key))
    if not fits or query.size(0) != key.size(0):
        raise UserError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}: (batch, tokens, "
            f"{width}) is needed for both, with one batch size"
        )
    if key.size(1) == 0 or query.size(1) == 0:
        raise UserError("query, key: no token given, 1 or more needed")
    weight, device = getattr(module.wo, "weight", None), query.device.type
    # Quantised weights, which some modules give as a method, take floats; under
    # autocast any of these are brought together.
    needed = weight.dtype if isinstance(weight, Tensor) else torch.uint8
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    mixed = autocast or not needed.is_floating_point
    for name, x in (("query", query), ("key", key)):
        if not x.is_floating_point() or (x.dtype != needed and not mixed):
            wanted = f"the module's {needed}" if not mixed else "a floating type"
            raise UserError(f"{name}: {x.dtype} given, {wanted} needed")


def check_padding(pad: Tensor | None, rows: int, tokens: int, seen: int = 0) -> None:
    """A mask true at padding, of the key or, after ``seen`` tokens, of all so far.

    Raises:
        UserError: another shape.
    """
    widths = {tokens, seen + tokens}
    if pad is not None and (
        pad.dim() != 2 or pad.size(0) != rows or pad.size(1) not in widths
    ):
        shapes = " or ".join(f"({rows}, {width})" for width in sorted(widths))
        raise UserError(f"key_padding_mask {tuple(pad.shape)}: {shapes} is needed")


def check_position(position: Tensor | None, rows: int, tokens: int) -> None:
    """Rotary positions of the key.

    Raises:
        UserError: another shape.
    """
    if position is not None and position.shape not in ((1, tokens), (rows, tokens)):
        raise UserError(
            f"position {tuple(position.shape)}: (1, {tokens}) or ({rows}, {tokens}), "
            "one for each token of the key, is needed"
        )


def check_causal(mask: Tensor | None, asked: int, tokens: int) -> None:
    """A mask hides nothing that lies before a query, the last ``asked`` tokens.

    Raises:
        UserError: it does, or has another shape.
    """
    if mask is None:
        return
    if mask.shape != (asked, tokens):
        raise UserError(
            f"self_attn_mask {tuple(mask.shape)}: ({asked}, {tokens}) is needed"
        )
    past = torch.ones(asked, tokens, dtype=torch.bool, device=mask.device)
    if (mask.bool() & past.tril(tokens - asked)).any():
        raise UserError(
            "self_attn_mask: only a causal mask can be given, since each query "
            "sees merged chunks; use key_padding_mask to hide tokens"
        )

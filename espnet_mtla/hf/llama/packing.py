"""From a batch with padding anywhere to rows whose real tokens stand first, and back.

Inside the model rows are packed, so that positions and chunks count a row's own tokens
alone, whatever padding stands beside them. A row of a batch may also hold several
documents behind each other, which become rows of their own.

Letters: ``B x L`` the batch as given, ``N x T`` packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where tokens go: ``source (N, T)`` and ``place (B, L)`` are flat indices."""

    source: Tensor
    place: Tensor
    lengths: Tensor  # (N,) real tokens
    real: Tensor | None = None  # (B, L) which are no padding; None of documents

    @classmethod
    def of_mask(cls, real: Tensor) -> Packing:
        """Of padding: ``real (B, L)`` is true at tokens."""
        batch, width = real.shape
        start = torch.arange(batch, device=real.device).unsqueeze(1) * width
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        rank = (real.cumsum(1) - 1).clamp(min=0)
        return cls(order + start, rank + start, real.sum(1), real)

    @classmethod
    def of_documents(cls, position: Tensor) -> Packing | None:
        """Of documents: one begins where ``position (B, L)`` does not count on.

        None where each row is one document.
        """
        begins = torch.ones_like(position, dtype=torch.bool)
        begins[:, 1:] = position[:, 1:] != position[:, :-1] + 1
        first = begins.flatten().nonzero().squeeze(1)  # (N,)
        if len(first) == len(position):
            return None
        ends = torch.cat((first[1:], first.new_tensor([position.numel()])))
        lengths = ends - first
        step = torch.arange(int(lengths.max()), device=position.device)
        source = (first.unsqueeze(1) + step).clamp(max=position.numel() - 1)
        document = begins.flatten().cumsum(0) - 1
        token = torch.arange(position.numel(), device=position.device)
        place = document * len(step) + token - first[document]
        return cls(source, place.view_as(position), lengths)

    def pack(self, x: Tensor) -> Tensor:
        """``(B, L, ...)`` to ``(N, T, ...)``; zeros behind the real tokens."""
        packed = x.flatten(0, 1)[self.source]
        step = torch.arange(self.source.size(1), device=x.device)
        padding = step >= self.lengths.unsqueeze(1)
        # Zeros, since whatever stands in padding, NaN too, must not spread.
        return packed.masked_fill(padding.view(*padding.shape, *[1] * (x.dim() - 2)), 0)

    def unpack(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """``(N, T, ...)`` to ``(B, L, ...)``.

        At padding stands what stands at the newest token before it, so that the last
        column is a row's newest token, whichever side its padding is on. Where none
        comes before in the batch it is ``before (B, ...)``, or zeros.
        """
        out = x.flatten(0, 1)[self.place]
        if self.real is None:
            return out
        nothing = self.real.cumsum(1) == 0
        nothing = nothing.view(*nothing.shape, *[1] * (x.dim() - 2))
        filling = 0 if before is None else before.unsqueeze(1).to(out.dtype)
        return torch.where(nothing, filling, out)


def over_columns(
    weights: Tensor, packing: Packing | None, real: Tensor | None
) -> Tensor:
    """Attention weights of packed rows in the batch's own form.

    Args:
        weights: ``(N, H, T, tokens of a row)``.
        packing: of the T tokens that ask.
        real: which of all columns so far are no padding, ``(B, C)``; None: all.

    Returns:
        ``(B, H, L, C)``; zeros for padding, and for what padding sees.
    """
    if packing is not None:
        weights = packing.unpack(weights.transpose(1, 2)).transpose(1, 2)
    if packing is not None and packing.real is None:
        width = packing.source.size(1)
        rank, document = packing.place % width, packing.place // width
        seen = document.unsqueeze(2) == document.unsqueeze(1)
    elif real is not None:
        rank, seen = (real.cumsum(1) - 1).clamp(min=0), real.unsqueeze(1)
        if packing is not None and packing.real is not None:
            seen = seen & packing.real.unsqueeze(2)
    else:
        return weights
    rank = rank[:, None, None].expand(-1, *weights.shape[1:3], -1)
    return weights.gather(-1, rank).masked_fill(~seen.unsqueeze(1), 0)


def find_packing(
    mask: Tensor | None, position: Tensor | None, shape: torch.Size, cached: bool
) -> Packing | None:
    """How a batch is packed; None where it is as it should be.

    Args:
        mask: of the new tokens or of all so far, true or 1 at tokens.
        position: rotary positions ``(B or 1, L)``.
        shape: B and L.
        cached: whether a cache is read or filled; it has no room for documents.
    """
    if mask is None:
        if position is None or cached or position.size(1) == 1:
            return None
        return Packing.of_documents(position.expand(shape))
    real = mask[:, -shape[1] :].bool()
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return Packing.of_mask(real)

"""Pack a batch: move padding, which may be anywhere, behind the tokens; and unpack it.

The layers run on packed rows, so that positions and chunks count the tokens of a row
alone, wherever its padding is. A row of the batch may also hold several documents,
which become packed rows of their own.

Letters: ``B`` rows and ``L`` columns of the batch, ``N`` packed rows of ``T`` tokens,
``H`` heads, ``C`` columns so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The index maps between a batch and its packed rows.

    Attributes:
        source: flat index into the batch of each packed token, ``(N, T)``.
        target: flat index into the packed rows of each column, ``(B, L)``.
        lengths: tokens of each packed row, ``(N,)``.
        real: False at padding, ``(B, L)``; None for documents, which have none.
    """

    source: Tensor
    target: Tensor
    lengths: Tensor
    real: Tensor | None = None

    @classmethod
    def of_mask(cls, real: Tensor) -> Packing:
        """Return the packing of a batch; ``real (B, L)`` is False at padding."""
        batch, width = real.shape
        start = torch.arange(batch, device=real.device).unsqueeze(1) * width
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        index = (real.cumsum(1) - 1).clamp(min=0)  # of a token in its packed row
        return cls(order + start, index + start, real.sum(1), real)

    @classmethod
    def of_documents(cls, position: Tensor) -> Packing | None:
        """Return the packing of documents; None if each row is one document.

        A document begins where ``position (B, L)`` is not one more than before.
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
        target = document * len(step) + token - first[document]
        return cls(source, target.view_as(position), lengths)

    def pack(self, x: Tensor) -> Tensor:
        """Pack ``(B, L, ...)`` to ``(N, T, ...)``, with zeros behind the tokens."""
        packed = x.flatten(0, 1)[self.source]
        step = torch.arange(self.source.size(1), device=x.device)
        padding = step >= self.lengths.unsqueeze(1)
        # Padding may hold NaN, which must not spread.
        return packed.masked_fill(padding.view(*padding.shape, *[1] * (x.dim() - 2)), 0)

    def unpack(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Unpack ``(N, T, ...)`` to ``(B, L, ...)``.

        Padding gets the value of the newest token before it, so that the last column is
        always a row's newest token. Padding before all tokens gets ``before (B, ...)``,
        or zeros.
        """
        out = x.flatten(0, 1)[self.target]
        if self.real is None:
            return out
        leading = self.real.cumsum(1) == 0
        leading = leading.view(*leading.shape, *[1] * (x.dim() - 2))
        filling = 0 if before is None else before.unsqueeze(1).to(out.dtype)
        return torch.where(leading, filling, out)


def unpack_attention(
    weights: Tensor, packing: Packing | None, real: Tensor | None
) -> Tensor:
    """Unpack attention weights to the columns of the batch.

    Args:
        weights: ``(N, H, T, tokens of a row)``.
        packing: of the T query tokens.
        real: False at padding among all columns so far, ``(B, C)``; None: no padding.

    Returns:
        ``(B, H, L, C)``; zero for queries and keys that are padding.
    """
    if packing is not None:
        weights = packing.unpack(weights.transpose(1, 2)).transpose(1, 2)
    if packing is not None and packing.real is None:
        width = packing.source.size(1)
        index, document = packing.target % width, packing.target // width
        visible = document.unsqueeze(2) == document.unsqueeze(1)
    elif real is not None:
        index, visible = (real.cumsum(1) - 1).clamp(min=0), real.unsqueeze(1)
        if packing is not None and packing.real is not None:
            visible = visible & packing.real.unsqueeze(2)
    else:
        return weights
    index = index[:, None, None].expand(-1, *weights.shape[1:3], -1)
    return weights.gather(-1, index).masked_fill(~visible.unsqueeze(1), 0)


def find_packing(
    mask: Tensor | None, position: Tensor | None, shape: torch.Size, cached: bool
) -> Packing | None:
    """Return how a batch is packed; None if its rows are packed already.

    Args:
        mask: True or 1 at tokens, of the new tokens or of all so far; None: no padding.
        position: rotary positions ``(B or 1, L)``.
        shape: B and L.
        cached: whether there is a cache, which does not support documents.
    """
    if mask is None:
        if position is None or cached or position.size(1) == 1:
            return None
        return Packing.of_documents(position.expand(shape))
    real = mask[:, -shape[1] :].bool()
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return Packing.of_mask(real)

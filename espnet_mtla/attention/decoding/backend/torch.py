"""The back-end in PyTorch alone: matrix products and a softmax, on any device.

Letters: ``R`` rows, ``G`` heads of the entries, ``M`` queries, ``S`` entries, ``e``
value width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.precision import NEG_INF

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

ROW_OPERATIONS = 5e6
"""Cost of computing one more row by calls of its own, in arithmetic operations."""


class TorchBackend:
    """See :class:`~espnet_mtla.attention.decoding.backend.DecodeBackend`."""

    name = "torch"
    token_writer = None

    def unsupported_reason(
        self, layout: EntryLayout, dtype: torch.dtype, device: torch.device
    ) -> str | None:
        del layout, dtype, device
        return None

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        layout: EntryLayout,
        visible: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        low, top, unseen = _bounds(visible, entries.size(2))
        if len(q) > 1 and visible.size(1) == 1 and _loop_is_faster(q, layout, unseen):
            each = [
                self.attend(one_q, one_entries, layout, count, scale)
                for one_q, one_entries, count in zip(
                    q.split(1), entries.split(1), visible.split(1), strict=True
                )
            ]
            outs, sums = zip(*each, strict=True)
            return torch.cat(outs), torch.cat(sums)
        keys, values = layout.keys(entries), layout.values(entries)
        scores = scaled_scores(q, keys[:, :, :top], scale)
        if low < top:
            slot = torch.arange(low, top, device=q.device)
            hidden = slot >= visible.unsqueeze(-1)  # (R, M or 1, S - low)
            scores[..., low:].masked_fill_(hidden.unsqueeze(1), NEG_INF)
        peak, total = exponentials(scores)
        # Normalise the weights, of which there are fewer than outputs. Their sum is at
        # least 1, the largest being exp(0), or 0 if nothing is visible.
        weights = (scores / total.clamp(min=0.5)).to(values.dtype)
        out = weights[..., :low] @ values[:, :, :low]
        if low < top:
            # Unwritten slots may hold NaN, and 0 times NaN is NaN: set values to 0.
            unwritten = slot >= visible.amax(1, keepdim=True)  # (R, S - low)
            tail = values[:, :, low:top].masked_fill(unwritten[:, None, :, None], 0)
            flat_out, flat_tail = out.flatten(0, 1), tail.flatten(0, 1)
            flat_weights = weights[..., low:].flatten(0, 1)
            out = torch.baddbmm(flat_out, flat_weights, flat_tail)
            out = out.unflatten(0, q.shape[:2])
        return out.to(q.dtype), (peak + total.log()).squeeze(-1)

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        share = torch.sigmoid(lse_a - lse_b).unsqueeze(-1)
        return torch.lerp(b.to(share.dtype), a.to(share.dtype), share).to(a.dtype)


def _bounds(visible: Tensor, slots: int) -> tuple[int, int, int]:
    """Return the least and the most visible slots of a query, and the hidden scores.

    The hidden scores are those between a query's own number and the most, summed over
    queries. On a GPU, reading the numbers would synchronise it, and a compiled step
    cannot read them: then the least is 0, the most is ``slots``, and none count as
    hidden.

    >>> _bounds(torch.tensor([[3], [5]]), slots=8)
    (3, 5, 2)
    """
    unknown = visible.device.type != "cpu" or torch.compiler.is_compiling()
    if slots == 0 or unknown:
        return 0, slots, 0
    low, top = (int(bound) for bound in torch.aminmax(visible))
    unseen = visible.numel() * top - int(visible.sum()) if low < top else 0
    return low, top, unseen


def _loop_is_faster(q: Tensor, layout: EntryLayout, unseen: int) -> bool:
    """Return True if looping over rows is faster than masking one padded batch.

    The loop computes no hidden scores and needs no mask, but makes more calls.
    """
    each = 2 * q.size(1) * q.size(2) * (layout.key_width + layout.value_width)
    return unseen * each > q.size(0) * ROW_OPERATIONS


def scaled_scores(q: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Return scaled scores ``(R, G, M, S)`` in float32 or float64."""
    if q.dtype not in (torch.float32, torch.float64):
        return (q @ keys.mT).float() * scale
    # baddbmm scales its product at no cost; with beta=0 it does not read ``unread``.
    unread = q.new_empty(*q.shape[:-1], keys.size(2)).flatten(0, 1)
    scores = unread.baddbmm(q.flatten(0, 1), keys.flatten(0, 1).mT, beta=0, alpha=scale)
    return scores.unflatten(0, q.shape[:2])


def exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Replace scores by exp(score - largest), in place.

    Returns:
        The largest score and the sum of exponentials, ``(R, G, M, 1)``. For a query
        that sees nothing these are the smallest finite number and 0.
    """
    smallest = torch.finfo(scores.dtype).min
    if scores.size(-1) == 0:
        none = scores.new_zeros(*scores.shape[:-1], 1)
        return none + smallest, none
    peak = scores.amax(-1, keepdim=True).clamp_(min=smallest)
    scores.sub_(peak).exp_()
    return peak, scores.sum(-1, keepdim=True)


BACKEND = TorchBackend()

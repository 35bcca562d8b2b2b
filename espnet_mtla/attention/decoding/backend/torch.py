"""The back-end that runs anywhere: matrix products and a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.precision import NEG_INF

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

ROW_OPERATIONS = 5e6
"""What one more call costs, in arithmetic that could be done instead."""


class TorchBackend:
    """A :class:`DecodeBackend` in PyTorch alone; it supports every layout."""

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
        scores = _scores(q, keys[:, :, :top], scale)
        if low < top:
            slot = torch.arange(low, top, device=q.device)
            hidden = slot >= visible.unsqueeze(-1)  # (R, M or 1, S - low)
            scores[..., low:].masked_fill_(hidden.unsqueeze(1), NEG_INF)
        peak, total = _exponentials(scores)
        # Weights are fewer than outputs. Their sum is 1 at least, but where nothing is
        # visible.
        weights = (scores / total.clamp(min=0.5)).to(values.dtype)
        out = weights[..., :low] @ values[:, :, :low]
        if low < top:
            # Selected, not multiplied: a weight of 0 does not undo a NaN.
            unwritten = slot >= visible.amax(1, keepdim=True)  # (R, S - low)
            tail = values[:, :, low:top].masked_fill(unwritten[:, None, :, None], 0)
            out = torch.baddbmm(
                *(x.flatten(0, 1) for x in (out, weights[..., low:], tail))
            ).unflatten(0, out.shape[:2])
        return out.to(q.dtype), (peak + total.log()).squeeze(-1)

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        share = torch.sigmoid(lse_a - lse_b).unsqueeze(-1)
        return torch.lerp(b.to(share.dtype), a.to(share.dtype), share).to(a.dtype)


def _bounds(visible: Tensor, slots: int) -> tuple[int, int, int]:
    """Slots that all queries see, those that any may see, and how many they do not.

    Known on the CPU alone: asking a GPU would be waiting for it, and a compiled step
    may not look.
    """
    unknown = visible.device.type != "cpu" or torch.compiler.is_compiling()
    if slots == 0 or unknown:
        return 0, slots, 0
    low, top = (int(bound) for bound in torch.aminmax(visible))
    unseen = visible.numel() * top - int(visible.sum()) if low < top else 0
    return low, top, unseen


def _loop_is_faster(q: Tensor, layout: EntryLayout, unseen: int) -> bool:
    """Whether rows of different lengths had better be computed one after another.

    Each without masks and without padding, which pays where there is much of that.
    """
    each = 2 * q.size(1) * q.size(2) * (layout.key_width + layout.value_width)
    return unseen * each > q.size(0) * ROW_OPERATIONS


def _scores(q: Tensor, keys: Tensor, scale: float) -> Tensor:
    """``(R, G, M, S)``, float32 or float64."""
    if q.dtype not in (torch.float32, torch.float64):
        return (q @ keys.mT).float() * scale
    # The product scales its result for nothing; with beta=0 what it adds to is unread.
    unread = q.new_empty(*q.shape[:-1], keys.size(2)).flatten(0, 1)
    scores = unread.baddbmm(q.flatten(0, 1), keys.flatten(0, 1).mT, beta=0, alpha=scale)
    return scores.unflatten(0, q.shape[:2])


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """exp(score - largest), in place; the largest and the sum, ``(R, G, M, 1)``.

    Where nothing is visible these are the smallest number and 0.
    """
    smallest = torch.finfo(scores.dtype).min
    if scores.size(-1) == 0:
        none = scores.new_zeros(*scores.shape[:-1], 1)
        return none + smallest, none
    peak = scores.amax(-1, keepdim=True).clamp_(min=smallest)
    scores.sub_(peak).exp_()
    return peak, scores.sum(-1, keepdim=True)


BACKEND = TorchBackend()

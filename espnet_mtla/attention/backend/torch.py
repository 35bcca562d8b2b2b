"""The back-end that runs anywhere: matrix products and a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from espnet_mtla.attention.cache import EntryLayout

NEVER = float("-inf")


class TorchBackend:
    """See :class:`~espnet_mtla.attention.backend.DecodeBackend`; fits everything."""

    name = "torch"

    def unfit(
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
        slot = torch.arange(entries.size(2), device=entries.device)
        written = slot < visible.amax(1, keepdim=True)  # (R, S)
        # Selected, not multiplied: a weight of 0 does not undo a NaN.
        entries = entries.masked_fill(~written[:, None, :, None], 0.0)
        scores = (q @ layout.keys(entries).transpose(2, 3)) * scale
        hidden = slot >= visible.unsqueeze(-1)  # (R, M or 1, S)
        scores = scores.masked_fill(hidden.unsqueeze(1), NEVER)
        return _weigh(scores, layout.values(entries))

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        share = torch.sigmoid(lse_a - lse_b).unsqueeze(-1)
        return torch.lerp(b.to(share.dtype), a.to(share.dtype), share).to(a.dtype)


def _weigh(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(R, G, S, e)`` weighed by ``scores (R, G, M, S)``, and the lse."""
    exact = scores.double() if scores.dtype == torch.float64 else scores.float()
    lse = exact.logsumexp(-1)
    # Where nothing is visible, any finite number in place of -inf gives zeros.
    floor = lse.clamp(min=torch.finfo(lse.dtype).min)
    weights = (exact - floor.unsqueeze(-1)).exp()
    return weights.to(values.dtype) @ values, lse


BACKEND = TorchBackend()

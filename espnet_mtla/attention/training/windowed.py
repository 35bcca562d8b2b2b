"""Attention over merged latents and a window of raw tokens, in training.

What is computed. With stride s, a first chunk that lacks ``a`` tokens and a window of
w tokens, token i sees the first ``n_i = max((i + a + 1 - w) // s, 0)`` chunks merged:
those whose last token is at most i - w. Of the tokens after them it sees itself and all
before it unmerged. :class:`.TemporalLatentConfig` explains the rule.

How. Queries that see a merged chunk begin at ``w - 1 + s - a``. Counted from there,
query t sees ``t // s + 1`` chunks. So every class ``t mod s`` is plain causal attention
of its queries over as many chunks, for which :mod:`.strided` calls a flash kernel. The
raw tokens of a query are a band of at most ``w + s - 1`` tokens (:mod:`.band`). Both
parts are merged by log-sum-exp, and differentiated as :mod:`.strided` explains.

Letters: see :mod:`.strided`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from espnet_mtla.attention.training.band import BandAttention
from espnet_mtla.attention.training.kernel_choice import BLOCKED
from espnet_mtla.attention.training.strided import Final, StridedAttention


def merged_chunks(index: Tensor, stride: int, offset: int, window: int) -> Tensor:
    """Return how many chunks a query at ``index`` sees merged.

    >>> merged_chunks(torch.arange(8), stride=2, offset=0, window=3)
    tensor([0, 0, 0, 0, 1, 1, 2, 2])

    Args:
        index: of the query in its row, any shape.
        stride: tokens of a chunk.
        offset: tokens that the first chunk lacks.
        window: newest tokens that are seen raw.
    """
    return ((index + (offset + 1 - window)) // stride).clamp(min=0)


def first_raw_token(merged: Tensor, stride: int, offset: int) -> Tensor:
    """Return the index of the token after the first ``merged`` chunks."""
    return (merged * stride - offset).clamp(min=0)


@dataclass(frozen=True)
class WindowedAttention(StridedAttention):
    """Forward and backward of one call; see the module's description.

    ``running`` holds the raw entry of each token, ``(B, T, w)``, not of each query.

    Attributes:
        index: of each query in its row, ``(B or 1, U)``.
        window: w.
    """

    index: Tensor = field(kw_only=True)
    window: int = field(kw_only=True)

    def _calls(self) -> list[slice]:
        """Return the queries of each kernel call; the last sees the most chunks."""
        if self.kernel == BLOCKED:
            return [slice(None)]
        start, s = self.window - 1 + self.stride - self.offset, self.stride
        return [slice(start + c, None, s) for c in reversed(range(s))]

    # The window ----------------------------------------------------------------------

    def _merge_own(self, out: Tensor, lse: Tensor) -> None:
        band, token = self._band()
        raw = self.running if token is None else _gather(self.running, token)
        band_out, band_lse = band.forward(self.q, *self._raw_keys_values(raw))
        total = torch.logaddexp(lse, band_lse)
        out.mul_((lse - total).exp_().unsqueeze(-1))
        out.add_(band_out.mul_((band_lse - total).exp_().unsqueeze(-1)))
        lse.copy_(total)

    def _own_backward(self, final: Final, d_weight: Tensor) -> Tensor:
        grad, out, lse, dq = final
        band, token = self._band()
        raw = self.running if token is None else _gather(self.running, token)
        qkv = (self.q, *self._raw_keys_values(raw))
        d_q, d_keys, d_values = band.backward(grad, qkv, (out, lse))
        dq.add_(d_q)
        d_heads = torch.cat((d_keys[..., : self._n], d_values), -1).to(raw.dtype)
        d_rope = d_keys[..., self._n :].sum(2).to(raw.dtype)
        d_raw = self._contract(raw, d_heads, d_rope, d_weight)
        if token is None:
            return d_raw
        d_running = torch.zeros_like(self.running)
        place = token.unsqueeze(-1).expand(d_raw.shape)
        return d_running.scatter_add_(1, place, d_raw)

    def _band(self) -> tuple[BandAttention, Tensor | None]:
        """Return attention over the raw tokens, and which tokens these are.

        If only some tokens are queries, those that none of them sees are left out:
        ``(B, T')`` in each row. None: all tokens.
        """
        index, token = self.index, None
        merged = merged_chunks(index, self.stride, self.offset, self.window)
        first = first_raw_token(merged, self.stride, self.offset)
        width = None if self.indexed else self.window + self.stride - 1
        if self.indexed:
            start, end = first.amin(1, keepdim=True), index.amax(1, keepdim=True)
            span = torch.arange(int((end - start).max()) + 1, device=index.device)
            token = (start + span).clamp(max=self.running.size(1) - 1)
            token = token.expand(self.q.size(0), -1)
            first, index = first - start, index - start
        settings = (self.scale, self.dropout, self.seed)
        return BandAttention(first, index, width, *settings), token

    def _raw_keys_values(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Expand raw entries ``(B, T, w)`` to keys and values ``(B, T, H, .)``."""
        heads = self._expand(raw)
        rope = raw[:, :, None, self._r :].expand(-1, -1, heads.size(2), -1)
        return torch.cat((heads[..., : self._n], rope), -1), heads[..., self._n :]


def _gather(x: Tensor, token: Tensor) -> Tensor:
    """Select tokens ``(B, T')`` of ``x (B, T, w)``."""
    return x.gather(1, token.unsqueeze(-1).expand(-1, -1, x.size(-1)))

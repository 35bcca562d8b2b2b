"""Attention over merged latents in training, without any T x T matrix (section 4.3).

Token i sees the chunks that were finished before its own began, and its own running
one. Latents are expanded to heads, so that a flash kernel can be used, and tokens are
split by i mod s. Those that finish a chunk see finished chunks alone: plain causal
attention, T / s against T / s. Each other class is causal attention too, from its
second query on and up to the last key but one, and has one own entry a token, which is
merged by log-sum-exp:

    lse = log(exp(lse_flash) + exp(q . k_own)),
    out = exp(lse_flash - lse) out_flash + exp(q . k_own - lse) v_own

So s kernel calls of size T / s do it, T^2 / 2s scores in all. Backward runs the
kernel's own backward with the final ``out`` and ``lse``. Kept for it are queries,
latents and output; heads are expanded again, a few hundredths of a layer's work.

Letters: ``B`` rows, ``T`` tokens, ``U`` that ask, ``H`` heads, ``S`` finished chunks,
``r`` latent width, ``w = r + d_R`` entry width, ``d = d_N + d_R`` width of a head's
query and key, ``e`` of its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.precision import NEG_INF, accumulation_dtype
from espnet_mtla.attention.training.blocked import Blocked
from espnet_mtla.attention.training.flash import BLOCKED, KERNELS


@dataclass(frozen=True)
class StridedAttention:
    """One call, the same in both directions.

    Attributes:
        q: ``(B, U, H, d)``.
        finished: entries of finished chunks, ``(B, S, w)``.
        own: running entry of each asking token, ``(B, U, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        visible: finished chunks that a query sees, ``(B or 1, U)``; the blocked kernel
            alone reads it.
        seed: one number on the CPU, for dropout.
        kernel: a name of :data:`KERNELS`, or ``blocked``.
        ranked: whether tokens ask in any order, each with its own entry merged in,
            which only the blocked kernel can; else query i is token i, and one that
            finishes its chunk sees that among the finished ones.
    """

    q: Tensor
    finished: Tensor
    running: Tensor
    weight: Tensor
    visible: Tensor
    seed: Tensor
    kernel: str
    stride: int
    indexed: bool
    scale: float
    dropout: float

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output ``(B, U, H, e)``, log-sum-exp ``(B, U, H)``, random states."""
        keys, values = self._keys_values()
        out = self.q.new_zeros(*self.q.shape[:3], self._e)
        lse = out.new_full(self.q.shape[:3], NEG_INF, dtype=self._exact)
        states = [
            self._finished(rows, keys, values, out[:, rows], lse[:, rows])
            for rows in self._calls()
        ]
        for rows in self._running_rows():
            self._merge_running(rows, out[:, rows], lse[:, rows])
        return out, lse, torch.stack(states)

    def backward(
        self, grad: Tensor, out: Tensor, lse: Tensor, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of q, finished, own and weight."""
        keys, values = self._keys_values()
        dq, d_running = torch.zeros_like(self.q), torch.zeros_like(self.running)
        d_weight = torch.zeros_like(self.weight)
        sums: tuple[Tensor, Tensor] | None = None
        # The last call sees all finished chunks: its gradients start the sums.
        for rows, state in reversed(list(zip(self._calls(), states, strict=True))):
            final = _Final(*(x[:, rows] for x in (grad, out, lse, dq)))
            found = self._finished_backward(rows, keys, values, final, state)
            if sums is None:
                sums = found or (keys.zero_(), values.zero_())
            elif found is not None:
                for total, part in zip(sums, found, strict=True):
                    total[:, :, : part.size(2)] += part
        assert sums is not None, "every kernel has one call at least"
        d_keys, d_values = sums
        for rows in self._running_rows():
            final = _Final(*(x[:, rows] for x in (grad, out, lse, dq)))
            d_running[:, rows] = self._running_backward(rows, final, d_weight)
        d_nope, d_rope = d_keys[..., : self._n], d_keys[..., self._n : self._d]
        d_heads = torch.cat((d_nope, d_values[..., : self._e]), -1).transpose(1, 2)
        d_finished = self._contract(self.finished, d_heads, d_rope.sum(1), d_weight)
        return dq, d_finished, d_running, d_weight

    # Finished chunks: a kernel's work ------------------------------------------------

    def _calls(self) -> list[slice]:
        """Queries of each kernel call; those of a first chunk may be in none."""
        s = self.stride
        if self.kernel == BLOCKED:
            return [slice(None)]
        return [*(slice(c + s, None, s) for c in range(s - 1)), slice(s - 1, None, s)]

    def _keys_values(self) -> tuple[Tensor, Tensor]:
        """``(B, H, S, .)`` of the finished chunks, as wide as the kernel wants them."""
        heads = self._expand(self.finished).transpose(1, 2)
        keys = heads.new_empty(*heads.shape[:3], self._d)
        keys[..., : self._n] = heads[..., : self._n]
        keys[..., self._n :] = self.finished[:, None, :, self._r :]
        return self._widened(keys), self._widened(heads[..., self._n :])

    def _finished(
        self, rows: slice, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor
    ) -> Tensor:
        """Write what a kernel finds into ``out`` and ``lse``; returns its state."""
        q, count = self._asked(rows)
        state = self.seed.new_zeros(2, device=q.device)
        if q.size(2) == 0 or count == 0:
            return state
        keys, values = keys[:, :, :count], values[:, :, :count]
        if self.kernel == BLOCKED:
            found, found_lse = self._blocked().forward(q, keys, values)
        else:
            found, found_lse, state = KERNELS[self.kernel].forward(
                q, keys, values, self.scale, self.dropout
            )
        out.copy_(found[..., : self._e].transpose(1, 2))
        lse.copy_(found_lse.mT)
        return state

    def _finished_backward(
        self, rows: slice, keys: Tensor, values: Tensor, final: _Final, state: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Writes the share of ``dq``; returns those of keys and values, if any."""
        q, count = self._asked(rows)
        if q.size(2) == 0 or count == 0:
            return None
        qkv = q, keys[:, :, :count], values[:, :, :count]
        grad, out, lse, dq = (x.transpose(1, 2) for x in final)
        if self.kernel == BLOCKED:
            found = self._blocked().backward(grad, qkv, (out, lse))
        else:
            found = KERNELS[self.kernel].backward(
                self._widened(grad),
                qkv,
                (self._widened(out), lse),
                state,
                self.scale,
                self.dropout,
            )
        dq.copy_(found[0][..., : self._d])
        return found[1], found[2]

    def _asked(self, rows: slice) -> tuple[Tensor, int]:
        """Queries ``(B, H, n, d)`` of a call, and how many chunks they may see."""
        q = self.q[:, rows].transpose(1, 2)
        count = self.finished.size(1) if self.kernel == BLOCKED else q.size(2)
        return self._widened(q), count

    def _blocked(self) -> Blocked:
        return Blocked(self.visible, self.scale, self.dropout, self.seed)

    def _widened(self, x: Tensor) -> Tensor:
        """Zeros at the end of queries, keys or values that must be equally wide."""
        if self.kernel == BLOCKED or not KERNELS[self.kernel].equal_widths:
            return x
        missing = max(self._d, self._e) - x.size(-1)
        return F.pad(x, (0, missing)) if missing else x

    # The own chunk: elementwise ------------------------------------------------------

    def _running_rows(self) -> list[slice]:
        """Queries whose own chunk is not among the finished ones."""
        if self.indexed:
            return [slice(None)] if self.stride > 1 else []
        return [slice(c, None, self.stride) for c in range(self.stride - 1)]

    def _merge_running(self, rows: slice, out: Tensor, lse: Tensor) -> None:
        entries = self.running[:, rows]
        heads = self._expand(entries)
        scores = self._running_scores(rows, entries, heads)
        total = torch.logaddexp(lse, scores)
        share = (scores - total).exp_().unsqueeze(-1)
        if self.dropout > 0:
            share.mul_(self._running_keep(rows, lse))
        out.mul_((lse - total).exp_().unsqueeze(-1))
        out.addcmul_(heads[..., self._n :], share.to(out.dtype))
        lse.copy_(total)

    def _running_backward(self, rows: slice, final: _Final, d_weight: Tensor) -> Tensor:
        """Gradient of the queries' own entries; adds to ``dq`` and ``d_weight``."""
        grad, out, lse, dq = final
        entries, q = self.running[:, rows], self.q[:, rows]
        heads, rope = self._expand(entries), entries[:, :, None, self._r :]
        share = (self._running_scores(rows, entries, heads) - lse).exp_().unsqueeze(-1)
        d_share = _dot(grad, heads[..., self._n :])
        keep = self._running_keep(rows, lse) if self.dropout > 0 else 1.0
        d_scores = (d_share * keep - _dot(grad, out)) * share * self.scale
        d_scores, share = d_scores.to(q.dtype), (share * keep).to(q.dtype)
        dq[..., : self._n].addcmul_(heads[..., : self._n], d_scores)
        dq[..., self._n :].addcmul_(rope, d_scores)
        d_heads = torch.empty_like(heads)
        torch.mul(q[..., : self._n], d_scores, out=d_heads[..., : self._n])
        torch.mul(grad, share, out=d_heads[..., self._n :])
        d_rope = (q[..., self._n :] * d_scores).sum(2)
        return self._contract(entries, d_heads, d_rope, d_weight)

    def _running_scores(self, rows: slice, entries: Tensor, heads: Tensor) -> Tensor:
        """``(B, n, H)``."""
        q, rope = self.q[:, rows], entries[:, :, None, self._r :]
        scores = _dot(q[..., : self._n], heads[..., : self._n])
        return (scores + _dot(q[..., self._n :], rope)).squeeze(-1) * self.scale

    def _running_keep(self, rows: slice, lse: Tensor) -> Tensor:
        """0, or 1 / (1 - dropout), for each own entry's weight: ``(B, n, H, 1)``."""
        generator = torch.Generator(lse.device)
        generator.manual_seed(int(self.seed) // 2 + (rows.start or 0))
        keep = torch.empty(lse.shape, dtype=self.q.dtype, device=lse.device)
        keep.bernoulli_(1 - self.dropout, generator=generator)
        return keep.mul_(1 / (1 - self.dropout)).unsqueeze(-1)

    # Latents to heads and back -------------------------------------------------------

    def _expand(self, entries: Tensor) -> Tensor:
        """``(B, n, w) -> (B, n, H, d_N + e)``."""
        heads = F.linear(entries[..., : self._r], self.weight)
        return heads.unflatten(-1, (self.q.size(2), -1))

    def _contract(
        self, entries: Tensor, d_heads: Tensor, d_rope: Tensor, d_weight: Tensor
    ) -> Tensor:
        """The gradient of entries from those of :meth:`_expand` and of rotary keys."""
        d_heads = d_heads.flatten(2)
        d_weight.addmm_(d_heads.flatten(0, 1).mT, entries[..., : self._r].flatten(0, 1))
        return torch.cat((d_heads @ self.weight, d_rope), dim=-1)

    # Sizes ---------------------------------------------------------------------------

    @property
    def _exact(self) -> torch.dtype:
        return accumulation_dtype(self.q.dtype)

    @property
    def _r(self) -> int:
        return self.weight.size(1)

    @property
    def _d(self) -> int:
        return self.q.size(-1)

    @property
    def _n(self) -> int:
        return self._d - (self.finished.size(-1) - self._r)

    @property
    def _e(self) -> int:
        return self.weight.size(0) // self.q.size(2) - self._n


class _Final(NamedTuple):
    """Some rows of the gradient, the final output, its lse, and dq to write."""

    grad: Tensor
    out: Tensor
    lse: Tensor
    dq: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """``(..., 1)``, in the type that sums are made in."""
    kind = accumulation_dtype(a.dtype)
    return (a.to(kind) * b.to(kind)).sum(-1, keepdim=True)

"""Attention over merged latents in training, without a ``T x T`` matrix (section 4.3).

What is computed. Token i sees the chunks that finished before the chunk of i began, and
the running entry of i. Of the T / s finished chunks it sees the first ``i // s``. A
token that finishes its chunk (``i mod s = s - 1``) sees that one among them, which
makes ``i // s + 1``.

How. Latents are expanded to heads, so that flash kernels can be used, and queries are
split into s classes by ``i mod s``, with one kernel call a class:

- The class ``s - 1`` has queries ``i = s j + s - 1`` for j = 0, 1, ...; query j sees
  chunks 0 to j: plain causal attention of T / s queries over T / s keys.
- In a class ``c < s - 1`` query j (``i = s j + c``) sees chunks 0 to j - 1. Without its
  first query, which sees none, query j + 1 sees chunks 0 to j. That is plain causal
  attention again, of the queries from ``c + s`` on over as many keys. The running entry
  of each query of the class is then merged in, elementwise, by log-sum-exp:

      lse = log(exp(lse_flash) + exp(q . k_running))
      out = exp(lse_flash - lse) out_flash + exp(q . k_running - lse) v_running

  For a first query ``lse_flash`` is -inf, so the output is its running value.

So s calls of size T / s compute ``T^2 / 2 s`` scores in all. If the first chunk lacks
``offset`` tokens, i is counted as ``i + offset`` in all of this.

Why the backward is exact. Let ``p_k = exp(score_k - lse)`` be the weights of the whole
softmax. The gradient of a score is ``p_k (grad . v_k - grad . out)``, that of a value
``p_k grad``. Both depend on the other keys only through ``lse`` and ``out``. The
backward of a kernel computes just these formulas from the ``lse`` and ``out`` that it
is passed. With the final ones, of all keys, it returns exactly the share of its keys.
The gradient of a query is the sum of these shares.

Kept for the backward are queries, latents and output. Heads are expanded once more in
the backward, which is a few hundredths of a layer's work.

Letters: ``B`` rows, ``T`` tokens, ``U`` queries, ``H`` heads, ``S`` finished chunks,
``s`` stride, ``r`` latent width, ``w = r + d_R`` entry width, ``d = d_N + d_R`` width
of a head's query and key, ``e`` of its value, ``n`` queries of a call.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.precision import NEG_INF, accumulation_dtype
from espnet_mtla.attention.training.blocked import Blocked
from espnet_mtla.attention.training.flash import KERNELS
from espnet_mtla.attention.training.kernel_choice import BLOCKED
from espnet_mtla.attention.training.strided_inputs import StridedInputs


class StridedAttention(StridedInputs):
    """Forward and backward of one call; see the module's description."""

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute attention.

        Returns:
            Output ``(B, U, H, e)``, log-sum-exp ``(B, U, H)``, and the random state of
            each kernel call, ``(calls, 2)``.
        """
        keys, values = self._keys_values()
        out = self.q.new_zeros(*self.q.shape[:3], self._e)
        lse = out.new_full(self.q.shape[:3], NEG_INF, dtype=self._lse_dtype)
        states = [
            self._attend_finished(rows, keys, values, out[:, rows], lse[:, rows])
            for rows in self._calls()
        ]
        self._merge_own(out, lse)
        return out, lse, torch.stack(states)

    def backward(
        self, grad: Tensor, out: Tensor, lse: Tensor, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the gradients of q, finished, running and weight.

        Args:
            grad: gradient of the output, ``(B, U, H, e)``.
            out: the output.
            lse: its log-sum-exp over all keys.
            states: random states of the forward.
        """
        keys, values = self._keys_values()
        dq, d_weight = torch.zeros_like(self.q), torch.zeros_like(self.weight)
        # Gradients of keys and values are sums over the calls. The last call sees the
        # most chunks, so the sums begin with its gradients, without copying.
        sums: tuple[Tensor, Tensor] | None = None
        for rows, state in reversed(list(zip(self._calls(), states, strict=True))):
            final = Final(*(x[:, rows] for x in (grad, out, lse, dq)))
            share = self._backward_of_finished(rows, keys, values, final, state)
            if sums is None:
                sums = share or (keys.zero_(), values.zero_())
            elif share is not None:
                for total, part in zip(sums, share, strict=True):
                    total[:, :, : part.size(2)] += part
        assert sums is not None, "every kernel has at least one call"
        d_keys, d_values = sums
        d_running = self._own_backward(Final(grad, out, lse, dq), d_weight)
        d_nope, d_rope = d_keys[..., : self._n], d_keys[..., self._n : self._d]
        d_heads = torch.cat((d_nope, d_values[..., : self._e]), -1).transpose(1, 2)
        finished, unseen = self.finished, self.finished.size(1) - d_heads.size(1)
        if unseen > 0:  # a raw window can hide the last chunks from all queries
            finished = finished[:, :-unseen]
        d_finished = self._contract(finished, d_heads, d_rope.sum(1), d_weight)
        if unseen > 0:
            d_finished = F.pad(d_finished, (0, 0, 0, unseen))
        return dq, d_finished, d_running, d_weight

    def empty_results(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return uninitialised tensors of the shapes and types of :meth:`forward`."""
        out = self.q.new_empty(*self.q.shape[:3], self._e)
        lse = self.q.new_empty(self.q.shape[:3], dtype=self._lse_dtype)
        states = self.q.new_empty((len(self._calls()), 2), dtype=torch.int64)
        return out, lse, states

    # Finished chunks: a kernel's work ------------------------------------------------

    def _calls(self) -> list[slice]:
        """Return the queries of each kernel call, class ``s - 1`` last.

        A class ``c < s - 1`` begins at ``c + s``: its first query sees no chunk.
        """
        s, a = self.stride, self.offset
        if self.kernel == BLOCKED:
            return [slice(None)]
        others = (slice(c + s - a, None, s) for c in range(s - 1))
        return [*others, slice(s - 1 - a, None, s)]

    def _keys_values(self) -> tuple[Tensor, Tensor]:
        """Expand finished chunks to keys and values ``(B, H, S, .)`` for the kernel."""
        heads = self._expand(self.finished).transpose(1, 2)
        keys = heads.new_empty(*heads.shape[:3], self._d)
        keys[..., : self._n] = heads[..., : self._n]
        keys[..., self._n :] = self.finished[:, None, :, self._r :]
        return self._widened(keys), self._widened(heads[..., self._n :])

    def _attend_finished(
        self, rows: slice, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor
    ) -> Tensor:
        """Attend the queries of one kernel call to the finished chunks.

        Args:
            rows: the call's queries, as a slice of the tokens.
            out, lse: views that get the output and the log-sum-exp; left as they are
                if the call has no queries or no keys.
        Returns:
            The kernel's random state; zeros if it has none.
        """
        q, count = self._call_queries(rows)
        state = self.seed.new_zeros(2, device=q.device)
        if q.size(2) == 0 or count == 0:
            return state
        keys, values = keys[:, :, :count], values[:, :, :count]
        if self.kernel == BLOCKED:
            kernel_out, kernel_lse = self._blocked().forward(q, keys, values)
        else:
            kernel_out, kernel_lse, state = KERNELS[self.kernel].forward(
                q, keys, values, self.scale, self.dropout
            )
        out.copy_(kernel_out[..., : self._e].transpose(1, 2))
        lse.copy_(kernel_lse.mT)
        return state

    def _backward_of_finished(
        self, rows: slice, keys: Tensor, values: Tensor, final: Final, state: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Compute the backward of one call; write its queries' part of ``final.dq``.

        Returns:
            Gradients of keys and values; None if the call has no queries or no keys.
        """
        q, count = self._call_queries(rows)
        if q.size(2) == 0 or count == 0:
            return None
        qkv = q, keys[:, :, :count], values[:, :, :count]
        grad, out, lse, dq = (x.transpose(1, 2) for x in final)
        if self.kernel == BLOCKED:
            gradients = self._blocked().backward(grad, qkv, (out, lse))
        else:
            gradients = KERNELS[self.kernel].backward(
                self._widened(grad),
                qkv,
                (self._widened(out), lse),
                state,
                self.scale,
                self.dropout,
            )
        d_q, d_keys, d_values = gradients
        dq.copy_(d_q[..., : self._d])
        return d_keys, d_values

    def _call_queries(self, rows: slice) -> tuple[Tensor, int]:
        """Return the queries ``(B, H, n, d)`` of a call, and the number of its keys.

        A flash call is square: n queries over the first n chunks.
        """
        q = self.q[:, rows].transpose(1, 2)
        count = self.finished.size(1) if self.kernel == BLOCKED else q.size(2)
        return self._widened(q), count

    def _blocked(self) -> Blocked:
        return Blocked(self.visible, self.scale, self.dropout, self.seed)

    def _widened(self, x: Tensor) -> Tensor:
        """Pad ``x (..., d or e)`` with zeros if the kernel needs d = e."""
        if self.kernel == BLOCKED or not KERNELS[self.kernel].equal_widths:
            return x
        missing = max(self._d, self._e) - x.size(-1)
        return F.pad(x, (0, missing)) if missing else x

    # The running chunk: elementwise --------------------------------------------------

    def _merge_own(self, out: Tensor, lse: Tensor) -> None:
        """Merge what each query sees beside finished chunks into ``out`` and ``lse``.

        That is its running entry, unless it is among the finished chunks.
        """
        for rows in self._running_rows():
            self._merge_running(rows, out[:, rows], lse[:, rows])

    def _own_backward(self, final: Final, d_weight: Tensor) -> Tensor:
        """Return the gradient of ``running``; add to ``final.dq`` and ``d_weight``."""
        d_running = torch.zeros_like(self.running)
        for rows in self._running_rows():
            part = Final(*(x[:, rows] for x in final))
            d_running[:, rows] = self._running_backward(rows, part, d_weight)
        return d_running

    def _running_rows(self) -> list[slice]:
        """Return the queries whose running entry is not among the finished chunks."""
        s = self.stride
        if self.indexed:
            return [slice(None)] if s > 1 else []
        return [slice((c - self.offset) % s, None, s) for c in range(s - 1)]

    def _merge_running(self, rows: slice, out: Tensor, lse: Tensor) -> None:
        """Merge the running entries of some queries into ``out`` and ``lse``."""
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

    def _running_backward(self, rows: slice, final: Final, d_weight: Tensor) -> Tensor:
        """Return the gradient of running entries; add to ``dq`` and ``d_weight``."""
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
        """Return the scores of queries and their running entries, ``(B, n, H)``."""
        q, rope = self.q[:, rows], entries[:, :, None, self._r :]
        scores = _dot(q[..., : self._n], heads[..., : self._n])
        return (scores + _dot(q[..., self._n :], rope)).squeeze(-1) * self.scale

    def _running_keep(self, rows: slice, lse: Tensor) -> Tensor:
        """Draw 0 or 1 / (1 - dropout) for each running entry: ``(B, n, H, 1)``.

        Forward and backward draw the same numbers, since they use the same seed.
        """
        generator = torch.Generator(lse.device)
        generator.manual_seed(int(self.seed) // 2 + (rows.start or 0))
        keep = torch.empty(lse.shape, dtype=self.q.dtype, device=lse.device)
        keep.bernoulli_(1 - self.dropout, generator=generator)
        return keep.mul_(1 / (1 - self.dropout)).unsqueeze(-1)


class Final(NamedTuple):
    """Some queries' gradient, output and log-sum-exp over all keys, and dq to write."""

    grad: Tensor
    out: Tensor
    lse: Tensor
    dq: Tensor


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot products of the last dimension, ``(..., 1)``."""
    dtype = accumulation_dtype(a.dtype)
    return (a.to(dtype) * b.to(dtype)).sum(-1, keepdim=True)

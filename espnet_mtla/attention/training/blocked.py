"""Attention by blocks of queries in plain PyTorch, for any device.

It supports what the flash kernels of :mod:`.flash` do not: queries that see different
numbers of keys in each row, and dropout on CPUs. Scores exist for one block at a time.
The backward computes them again, with the same random numbers, so that the memory kept
for it grows linearly with the length of a row.

Weights are ``2^(score / ln 2)``, since PyTorch's ``exp2`` on CPUs is three times faster
than ``exp``. Queries are scaled by ``scale / ln 2`` once to this end.

Letters: ``B`` rows, ``H`` query heads, ``G`` key heads (G divides H), ``U`` queries,
``S`` keys, ``d`` width of queries and keys, ``e`` of values, ``n`` queries of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.attention.precision import NEG_INF, accumulation_dtype

SCORES = {"cpu": 2**21, "cuda": 2**25}
"""Scores in a block: they fit a CPU's cache, and they fill a GPU."""


@dataclass(frozen=True)
class Blocked:
    """Attention in which query u of row b sees the first ``visible[b, u]`` keys.

    Attributes:
        visible: ``(B or 1, U)``.
        scale: factor of the scores.
        dropout: probability of dropping a weight.
        seed: one number on the CPU; forward and backward draw the same dropout from it.
    """

    visible: Tensor
    scale: float
    dropout: float
    seed: Tensor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute output and log-sum-exp.

        Args:
            q: ``(B, H, U, d)``.
            k: ``(B, G, S, d)``.
            v: ``(B, G, S, e)``.

        Returns:
            ``(B, H, U, e)``, and ``(B, H, U)`` in float32 (float64 for float64). A
            query that sees no key gets 0 and -inf.
        """
        batch, heads, queries, _ = q.shape
        out = q.new_empty(batch, queries, heads, v.size(-1)).transpose(1, 2)
        lse = torch.empty(
            q.shape[:3], dtype=accumulation_dtype(q.dtype), device=q.device
        )
        flat_k, flat_v = _flat(k), _flat(v)
        for block in self._blocks(q, k):
            scores = self._scores(self._part_q(q, block, k), flat_k, block)
            self._hide(scores, block, NEG_INF)
            top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(lse.dtype).min)
            weights = scores.sub_(top).exp2_()
            total = weights.sum(-1, keepdim=True)
            if self.dropout > 0:
                weights.mul_(self._keep(weights, block))
            summed = torch.bmm(weights, flat_v[:, : block.most])
            summed.div_(total.clamp(min=torch.finfo(lse.dtype).tiny))
            rows = slice(block.first, block.last)
            out[:, :, rows] = _unflat(summed, heads, batch)
            lse[:, :, rows] = _unflat(total.log2().add_(top), heads, batch).squeeze(-1)
        return out, lse.mul_(math.log(2))

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of q, k and v.

        Args:
            grad: gradient of the output, ``(B, H, U, e)``.
            qkv: as in the forward.
            final: output and log-sum-exp of the softmax over all keys, which may be
                more than ``k`` (:mod:`.strided`).
        """
        (q, k, v), (out, lse) = qkv, final
        batch, heads, queries, _ = q.shape
        groups, dtype = k.size(1), lse.dtype
        delta = (grad.to(dtype) * out).sum(-1, keepdim=True)
        # A finite number for the -inf of queries that see no key: -inf - -inf is NaN.
        shift = (lse / math.log(2)).clamp(min=torch.finfo(dtype).min).unsqueeze(-1)
        dq = q.new_empty(batch, queries, heads, q.size(-1)).transpose(1, 2)
        flat_k, flat_v = _flat(k), _flat(v)
        dk, dv = torch.zeros_like(flat_k), torch.zeros_like(flat_v)
        for block in self._blocks(q, k):
            n = block.most
            part_q = self._part_q(q, block, k)
            weights = self._scores(part_q, flat_k, block)
            weights = weights.sub_(_part(shift, block, groups)).exp2_()
            self._hide(weights, block, 0.0)
            part_grad = _part(grad, block, groups).to(dtype)
            d_weights, dropped = torch.bmm(part_grad, flat_v[:, :n].mT), weights
            if self.dropout > 0:
                keep = self._keep(weights, block)
                d_weights, dropped = d_weights.mul_(keep), weights * keep
            _add_product(dv, n, dropped, part_grad)
            d_scores = d_weights.sub_(_part(delta, block, groups)).mul_(weights)
            _add_product(dk, n, d_scores, part_q)
            part_dq = torch.bmm(d_scores, flat_k[:, :n]).mul_(self.scale)
            dq[:, :, block.first : block.last] = _unflat(part_dq, heads, batch)
        dk = dk.mul_(math.log(2))  # undoes the 1 / ln 2 in the scaled queries
        return dq, dk.view(k.shape).to(k.dtype), dv.view(v.shape).to(v.dtype)

    def _blocks(self, q: Tensor, k: Tensor) -> Iterator[_Block]:
        size, keys = block_size(q, k.size(2)), k.size(2)
        parts = self.visible.split(size, dim=1)
        for i, part in enumerate(parts):
            # Reading the counts of a GPU would synchronise it: there all keys are used.
            on_host = part.device.type == "cpu"
            least, most = (int(part.min()), int(part.max())) if on_host else (0, keys)
            first, last = i * size, i * size + part.size(1)
            yield _Block(q.size(0), first, last, least, max(most, 1), part)

    def _part_q(self, q: Tensor, block: _Block, k: Tensor) -> Tensor:
        """Return a block's queries, scaled so that weights are powers of two."""
        part = _part(q, block, k.size(1)).to(accumulation_dtype(q.dtype))
        return part * (self.scale / math.log(2))

    def _scores(self, part_q: Tensor, flat_k: Tensor, block: _Block) -> Tensor:
        """Return scores ``(B G, m n, most)``; m query heads share a key head."""
        return torch.bmm(part_q, flat_k[:, : block.most].mT)

    def _hide(self, scores: Tensor, block: _Block, value: float) -> Tensor:
        """Overwrite the scores of keys that a query does not see, in place.

        All queries of the block see the first ``least`` keys: these need no mask.
        """
        if block.least < block.most:
            place = torch.arange(block.least, block.most, device=scores.device)
            hidden = place >= block.visible[:, None, :, None]  # (B or 1, 1, n, .)
            by_row = scores.view(block.rows, -1, block.last - block.first, block.most)
            by_row[..., block.least :].masked_fill_(hidden, value)
        return scores

    def _keep(self, weights: Tensor, block: _Block) -> Tensor:
        """Draw 0 or 1 / (1 - dropout) for each weight, from the block's own seed."""
        generator = torch.Generator(weights.device)
        generator.manual_seed((int(self.seed) + block.first) % 2**63)
        keep = torch.empty_like(weights)
        keep.bernoulli_(1 - self.dropout, generator=generator)
        return keep.mul_(1 / (1 - self.dropout))


@dataclass(frozen=True)
class _Block:
    """Queries ``first`` to ``last - 1``; each sees ``least`` to ``most`` keys."""

    rows: int
    first: int
    last: int
    least: int
    most: int
    visible: Tensor  # (B or 1, n)


def block_size(q: Tensor, keys: int) -> int:
    """Return the number of queries in a block, a multiple of 16."""
    room = SCORES.get(q.device.type, SCORES["cuda"])
    return max(room // max(q.size(0) * q.size(1) * keys, 1) // 16 * 16, 16)


def _flat(x: Tensor) -> Tensor:
    """Reshape ``(B, G, S, w)`` to ``(B G, S, w)``, in the dtype of accumulation."""
    return x.reshape(-1, *x.shape[2:]).to(accumulation_dtype(x.dtype))


def _part(x: Tensor, block: _Block, groups: int) -> Tensor:
    """Select a block of ``(B, H, U, w)``, by key head: ``(B G, m n, w)``."""
    part = x[:, :, block.first : block.last]
    return part.reshape(x.size(0) * groups, -1, x.size(-1))


def _unflat(part: Tensor, heads: int, batch: int) -> Tensor:
    """Undo :func:`_part`: ``(B, H, n, w)``."""
    return part.reshape(batch, heads, -1, part.size(-1))


def _add_product(total: Tensor, count: int, weights: Tensor, x: Tensor) -> None:
    """Add ``weights^T x`` to the first ``count`` keys of ``total (B G, S, w)``."""
    if count == total.size(1):
        total.baddbmm_(weights.mT, x)
    else:  # baddbmm_ into a view would run matrix by matrix
        total[:, :count] += torch.bmm(weights.mT, x)

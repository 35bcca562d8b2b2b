"""Attention by blocks of queries in plain PyTorch: any device, any mask by counts.

It does what the flash kernels of :mod:`.flash` cannot: queries that see different
numbers of keys from row to row, and dropout on CPUs. Scores exist for one block at a
time; the backward makes them again, with the same random numbers, so that what is kept
grows with the row's length alone. Exponents are of two: on CPUs PyTorch's ``exp2`` is
three times quicker than ``exp``.

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
"""Numbers in a block of scores: what a CPU's cache holds, what fills a GPU."""


@dataclass(frozen=True)
class Blocked:
    """Query u of row b sees the first ``visible[b, u]`` keys; ``visible (B or 1, U)``.

    ``seed``, one number on the CPU, is what dropout draws from in both directions.
    """

    visible: Tensor
    scale: float
    dropout: float
    seed: Tensor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp.

        Args:
            q: ``(B, H, U, d)``; k: ``(B, G, S, d)``; v: ``(B, G, S, e)``.

        Returns:
            ``(B, H, U, e)``, and ``(B, H, U)`` in float32 (float64 for float64). A
            query that sees nothing gets zeros and -inf.
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
        """Gradients of q, k and v; ``final`` output and log-sum-exp, of all keys."""
        (q, k, v), (out, lse) = qkv, final
        batch, heads, queries, _ = q.shape
        groups, kind = k.size(1), lse.dtype
        delta = (grad.to(kind) * out).sum(-1, keepdim=True)
        # Of queries that see nothing the sum is -inf.
        shift = (lse / math.log(2)).clamp(min=torch.finfo(kind).min).unsqueeze(-1)
        dq = q.new_empty(batch, queries, heads, q.size(-1)).transpose(1, 2)
        flat_k, flat_v = _flat(k), _flat(v)
        dk, dv = torch.zeros_like(flat_k), torch.zeros_like(flat_v)
        for block in self._blocks(q, k):
            n = block.most
            part_q = self._part_q(q, block, k)
            weights = self._scores(part_q, flat_k, block)
            weights = weights.sub_(_part(shift, block, groups)).exp2_()
            self._hide(weights, block, 0.0)
            part_grad = _part(grad, block, groups).to(kind)
            d_weights, dropped = torch.bmm(part_grad, flat_v[:, :n].mT), weights
            if self.dropout > 0:
                keep = self._keep(weights, block)
                d_weights, dropped = d_weights.mul_(keep), weights * keep
            _add_product(dv, n, dropped, part_grad)
            d_scores = d_weights.sub_(_part(delta, block, groups)).mul_(weights)
            _add_product(dk, n, d_scores, part_q)
            part_dq = torch.bmm(d_scores, flat_k[:, :n]).mul_(self.scale)
            dq[:, :, block.first : block.last] = _unflat(part_dq, heads, batch)
        dk = dk.mul_(math.log(2))  # queries were those of exponents of two
        return dq, dk.view(k.shape).to(k.dtype), dv.view(v.shape).to(v.dtype)

    def _blocks(self, q: Tensor, k: Tensor) -> Iterator[_Block]:
        size, keys = block_size(q, k.size(2)), k.size(2)
        parts = self.visible.split(size, dim=1)
        for i, part in enumerate(parts):
            # Looking at the counts would make a GPU's host wait: there all keys count.
            on_host = part.device.type == "cpu"
            least, most = (int(part.min()), int(part.max())) if on_host else (0, keys)
            first, last = i * size, i * size + part.size(1)
            yield _Block(q.size(0), first, last, least, max(most, 1), part)

    def _part_q(self, q: Tensor, block: _Block, k: Tensor) -> Tensor:
        """Queries of a block, such that products with keys are exponents of two."""
        part = _part(q, block, k.size(1)).to(accumulation_dtype(q.dtype))
        return part * (self.scale / math.log(2))

    def _scores(self, part_q: Tensor, flat_k: Tensor, block: _Block) -> Tensor:
        """``(B G, m n, most)``; m query heads share a key head."""
        return torch.bmm(part_q, flat_k[:, : block.most].mT)

    def _hide(self, scores: Tensor, block: _Block, value: float) -> Tensor:
        """Put ``value`` where a query does not see the key."""
        if block.least < block.most:
            place = torch.arange(block.least, block.most, device=scores.device)
            hidden = place >= block.visible[:, None, :, None]  # (B or 1, 1, n, .)
            by_row = scores.view(block.rows, -1, block.last - block.first, block.most)
            by_row[..., block.least :].masked_fill_(hidden, value)
        return scores

    def _keep(self, weights: Tensor, block: _Block) -> Tensor:
        """0, or 1 / (1 - dropout): the same for a block whenever it is asked for."""
        generator = torch.Generator(weights.device)
        generator.manual_seed((int(self.seed) + block.first) % 2**63)
        keep = torch.empty_like(weights)
        keep.bernoulli_(1 - self.dropout, generator=generator)
        return keep.mul_(1 / (1 - self.dropout))


@dataclass(frozen=True)
class _Block:
    """Queries from ``first`` to ``last``, which see ``least`` to ``most`` keys."""

    rows: int
    first: int
    last: int
    least: int
    most: int
    visible: Tensor  # (B or 1, n)


def block_size(q: Tensor, keys: int) -> int:
    """Queries in a block, a multiple of 16."""
    room = SCORES.get(q.device.type, SCORES["cuda"])
    return max(room // max(q.size(0) * q.size(1) * keys, 1) // 16 * 16, 16)


def _flat(x: Tensor) -> Tensor:
    """``(B, G, S, w) -> (B G, S, w)``, in the type that sums are made in."""
    return x.reshape(-1, *x.shape[2:]).to(accumulation_dtype(x.dtype))


def _part(x: Tensor, block: _Block, groups: int) -> Tensor:
    """A block of ``(B, H, U, w)``, m heads of a group together: ``(B G, m n, w)``."""
    part = x[:, :, block.first : block.last]
    return part.reshape(x.size(0) * groups, -1, x.size(-1))


def _unflat(part: Tensor, heads: int, batch: int) -> Tensor:
    """The inverse of :func:`_part`: ``(B, H, n, w)``."""
    return part.reshape(batch, heads, -1, part.size(-1))


def _add_product(total: Tensor, count: int, weights: Tensor, x: Tensor) -> None:
    """Add ``weights^T x`` to the first ``count`` keys of ``total (B G, S, w)``."""
    if count == total.size(1):
        total.baddbmm_(weights.mT, x)
    else:  # into a part PyTorch would add matrix by matrix
        total[:, :count] += torch.bmm(weights.mT, x)

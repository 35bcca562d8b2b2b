"""Attention to the newest tokens alone, block by block of queries, for any device.

Query u of row b sees the tokens ``first[b, u]`` to ``index[b, u]``, a band along the
diagonal of the matrix of scores. A block of :data:`QUERIES` queries sees few tokens
more than one query, so the scores of all blocks grow linearly with the length. Blocks
are computed in groups of at most :data:`.SCORES` scores. The backward computes scores
again, with the same random numbers.

Weights are ``2^(score / ln 2)``, see :mod:`.blocked`.

Letters: ``B`` rows, ``U`` queries, ``T`` tokens, ``H`` heads, ``d`` width of queries
and keys, ``e`` of values, ``n`` queries of a block, ``C`` blocks of a group, ``L``
tokens that a block sees at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.precision import NEG_INF, accumulation_dtype
from espnet_mtla.attention.training.blocked import SCORES

QUERIES = 64
"""Queries of a block. Fewer make small matrix products, more compute unseen scores."""


@dataclass(frozen=True)
class BandAttention:
    """Attention in which a query sees the tokens ``first`` to ``index`` of its row.

    Attributes:
        first: ``(B or 1, U)``.
        index: not less than ``first``, ``(B or 1, U)``.
        width: largest ``index - first + 1``, if the queries are tokens in order without
            gaps; None: in any order.
        scale: factor of the scores.
        dropout: probability of dropping a weight.
        seed: one number on the CPU; forward and backward draw the same dropout from it.
    """

    first: Tensor
    index: Tensor
    width: int | None
    scale: float
    dropout: float
    seed: Tensor

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Compute output ``(B, U, H, e)`` and log-sum-exp ``(B, U, H)``.

        Args:
            q: ``(B, U, H, d)``.
            k: ``(B, T, H, d)``.
            v: ``(B, T, H, e)``.

        Returns:
            Both in float32, or float64 for float64.
        """
        exact = accumulation_dtype(q.dtype)
        out = torch.empty(*q.shape[:3], v.size(-1), dtype=exact, device=q.device)
        lse = out.new_empty(q.shape[:3])
        k_by_head, v_by_head = _by_head(k), _by_head(v)
        for group in self._groups(q, k):
            part_k = group.of_tokens(k_by_head)
            weights = self._scores(group.of_queries(q), part_k, group)
            top = weights.amax(-1, keepdim=True)
            weights = weights.sub_(top).exp2_()
            total = weights.sum(-1, keepdim=True)
            if self.dropout > 0:
                weights.mul_(self._keep(weights, group))
            summed = (weights @ group.of_tokens(v_by_head)).div_(total)
            group.put(out, summed)
            group.put(lse.unsqueeze(-1), total.log2().add_(top))
        return out, lse.mul_(math.log(2))

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of q, k and v, in float32 or float64.

        Args:
            grad: gradient of the output, ``(B, U, H, e)``.
            qkv: as in the forward.
            final: output and log-sum-exp of the softmax over all keys, which may be
                more than ``k`` (:mod:`.strided`).
        """
        (q, k, v), (out, lse) = qkv, final
        exact = accumulation_dtype(q.dtype)
        delta = (grad.to(exact) * out).sum(-1)
        shift = lse / math.log(2)
        dq, dk, dv = (torch.zeros_like(x, dtype=exact) for x in (q, k, v))
        k_by_head, v_by_head = _by_head(k), _by_head(v)
        for group in self._groups(q, k):
            part_q, part_k = group.of_queries(q), group.of_tokens(k_by_head)
            weights = self._scores(part_q, part_k, group)
            weights = weights.sub_(group.of_queries(shift)).exp2_()
            part_grad = group.of_queries(grad)
            d_weights, dropped = part_grad @ group.of_tokens(v_by_head).mT, weights
            if self.dropout > 0:
                keep = self._keep(weights, group)
                d_weights, dropped = d_weights.mul_(keep), weights * keep
            group.add(dv, dropped.mT @ part_grad)
            d_scores = d_weights.sub_(group.of_queries(delta)).mul_(weights)
            d_scores.mul_(self.scale)
            group.add(dk, d_scores.mT @ part_q)
            group.put(dq, d_scores @ part_k)
        return dq, dk, dv

    def _scores(self, q: Tensor, k: Tensor, group: _Group) -> Tensor:
        """Return scores ``(B, H, C, n, L)`` divided by ln 2; -inf where unseen."""
        scores = (q * (self.scale / math.log(2))) @ k.mT
        return scores.masked_fill_(group.hidden.unsqueeze(1), NEG_INF)

    def _keep(self, weights: Tensor, group: _Group) -> Tensor:
        """Draw 0 or 1 / (1 - dropout) for each weight, from the group's own seed."""
        generator = torch.Generator(weights.device)
        generator.manual_seed((int(self.seed) // 3 + group.begin) % 2**63)
        keep = torch.empty_like(weights)
        keep.bernoulli_(1 - self.dropout, generator=generator)
        return keep.mul_(1 / (1 - self.dropout))

    def _groups(self, q: Tensor, k: Tensor) -> Iterator[_Group]:
        first, index = (self._in_blocks(x) for x in (self.first, self.index))
        start = first.amin(-1, keepdim=True)  # (B or 1, blocks, 1)
        if self.width is not None:
            most = min(QUERIES - 1 + self.width, max(k.size(1), 1))
        else:  # reads a number of the device: any order of queries is supported
            most = int((index.amax(-1, keepdim=True) - start).max()) + 1
        token = start + torch.arange(most, device=k.device)  # (B or 1, blocks, L)
        seen = token.unsqueeze(2)
        hidden = (seen < first.unsqueeze(3)) | (seen > index.unsqueeze(3))
        token = token.clamp(max=k.size(1) - 1)
        room = SCORES.get(q.device.type, SCORES["cuda"])
        size = max(room // (q.size(0) * q.size(2) * QUERIES * most), 1)
        for begin in range(0, token.size(1), size):
            blocks = slice(begin, begin + size)
            yield _Group(begin, q.size(1), token[:, blocks], hidden[:, blocks])

    def _in_blocks(self, x: Tensor) -> Tensor:
        """Split ``(B or 1, U)`` into blocks, ``(B or 1, blocks, n)``.

        The last block repeats its last query, so that every block is full.
        """
        missing = -x.size(1) % QUERIES
        x = torch.cat((x, x[:, -1:].expand(-1, missing)), dim=1)
        return x.unflatten(1, (-1, QUERIES))


@dataclass(frozen=True)
class _Group:
    """Some consecutive blocks of queries.

    Attributes:
        begin: index of the first block.
        queries: U, of all blocks.
        token: tokens that each block may see, ``(B or 1, C, L)``.
        hidden: true where a query does not see a token, ``(B or 1, C, n, L)``.
    """

    begin: int
    queries: int
    token: Tensor
    hidden: Tensor

    @property
    def _rows(self) -> slice:
        first = self.begin * QUERIES
        return slice(first, min(first + self.token.size(1) * QUERIES, self.queries))

    def of_queries(self, x: Tensor) -> Tensor:
        """Select the group of ``(B, U, H, .)``: ``(B, H, C, n, .)``, padded with 0.

        ``(B, U, H)`` gets a last dimension of size 1.
        """
        part = x[:, self._rows]
        part = part.unsqueeze(-1) if x.dim() == 3 else part
        part = part.to(accumulation_dtype(x.dtype)).transpose(1, 2)
        missing = self.token.size(1) * QUERIES - part.size(2)
        part = F.pad(part, (0, 0, 0, missing)) if missing else part
        return part.unflatten(2, (-1, QUERIES))

    def of_tokens(self, x: Tensor) -> Tensor:
        """Select what each block sees of ``(B, H, T, .)``: ``(B, H, C, L, .)``."""
        if self.token.size(0) == 1:
            part = x.index_select(2, self.token.flatten())
            return part.unflatten(2, self.token.shape[1:])
        rows = torch.arange(x.size(0), device=x.device)[:, None, None]
        return x.transpose(1, 2)[rows, self.token].movedim(3, 1)

    def put(self, target: Tensor, part: Tensor) -> None:
        """Write ``(B, H, C, n, .)`` into the group's queries of ``(B, U, H, .)``."""
        rows = self._rows
        flat = part.flatten(2, 3).transpose(1, 2)
        target[:, rows] = flat[:, : rows.stop - rows.start]

    def add(self, target: Tensor, part: Tensor) -> None:
        """Add ``(B, H, C, L, .)`` to the tokens of ``(B, T, H, .)`` they belong to."""
        part = part.flatten(2, 3).transpose(1, 2)  # (B, C L, H, .)
        if self.token.size(0) == 1:
            target.index_add_(1, self.token.flatten(), part)
            return
        rows = torch.arange(target.size(0), device=target.device).unsqueeze(1)
        place = (rows * target.size(1) + self.token.flatten(1)).flatten()
        target.flatten(0, 1).index_add_(0, place, part.flatten(0, 1))


def _by_head(x: Tensor) -> Tensor:
    """Return ``(B, T, H, .)`` as contiguous ``(B, H, T, .)``, to copy rows of it."""
    return x.to(accumulation_dtype(x.dtype)).transpose(1, 2).contiguous()

"""Inputs of one training attention call, their widths, and latents as heads.

Letters: see :mod:`espnet_mtla.attention.training.strided`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.precision import accumulation_dtype


@dataclass(frozen=True)
class StridedInputs:
    """The inputs of one call, in the order of the operator's arguments.

    Attributes:
        q: queries, ``(B, U, H, d)``.
        finished: entries of finished chunks, ``(B, S, w)``.
        running: running entry of each query, ``(B, U, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        visible: finished chunks that a query sees, ``(B or 1, U)``; only the blocked
            kernel reads it.
        seed: one number on the CPU, for dropout.
        kernel: a name of :data:`.KERNELS`, or ``blocked``.
        stride: tokens of a chunk.
        indexed: true if queries are any tokens in any order; each has its running entry
            merged in, and the kernel must be ``blocked``. False: query i is token i,
            and one that finishes a chunk sees it among the finished ones.
        scale: factor of the scores.
        dropout: probability of dropping an attention weight.
        offset: tokens that the first chunk lacks.
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
    offset: int = 0

    # Latents to heads and back -------------------------------------------------------

    def _expand(self, entries: Tensor) -> Tensor:
        """Project latents up: ``(B, n, w) -> (B, n, H, d_N + e)``."""
        heads = F.linear(entries[..., : self._r], self.weight)
        return heads.unflatten(-1, (self.q.size(2), -1))

    def _contract(
        self, entries: Tensor, d_heads: Tensor, d_rope: Tensor, d_weight: Tensor
    ) -> Tensor:
        """Return the gradient of entries ``(B, n, w)``; add to ``d_weight``.

        Args:
            entries: ``(B, n, w)``.
            d_heads: gradient of what :meth:`_expand` returned.
            d_rope: gradient of the rotary keys, ``(B, n, d_R)``.
            d_weight: gradient of ``weight``.
        """
        d_heads = d_heads.flatten(2)
        d_weight.addmm_(d_heads.flatten(0, 1).mT, entries[..., : self._r].flatten(0, 1))
        return torch.cat((d_heads @ self.weight, d_rope), dim=-1)

    # Sizes ---------------------------------------------------------------------------

    @property
    def _lse_dtype(self) -> torch.dtype:
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

"""Which tokens of packed rows are used as queries.

Letters: ``B`` rows, ``T`` tokens, ``U`` queries, ``D`` model width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.attention.training.attend import gather_tokens


@dataclass(frozen=True)
class QueryTokens:
    """Tokens that are used as attention queries.

    Attributes:
        x: their vectors, ``(B, U, D)``.
        query_index: index of each in its row, ``(B or 1, U)``; None: they are all
            tokens of the row, in order.
    """

    x: Tensor
    query_index: Tensor | None = None

    @property
    def row_index(self) -> Tensor:
        """Index of each query token in its row ``(B or 1, U)``, never None."""
        if self.query_index is not None:
            return self.query_index
        return torch.arange(self.x.size(1), device=self.x.device).unsqueeze(0)

    def select(self, values: Tensor) -> Tensor:
        """Pick those of ``values (B or 1, T, ...)``: ``(B or 1, U, ...)``."""
        index = self.query_index
        return values if index is None else gather_tokens(values, index)

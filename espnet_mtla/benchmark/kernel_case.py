"""The sizes that the kernel benchmark times: cache entries, rows, queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from espnet_mtla.attention import EntryLayout


@dataclass(frozen=True)
class Case:
    """One size of the operation.

    Attributes:
        entries: widths of an entry, see :func:`parse_entries`.
        rows: rows of the cache.
        queries: queries per row and head.
        slots: entries per row.
    """

    entries: str
    rows: int
    queries: int
    slots: int
    device: str
    dtype: str

    @property
    def layout(self) -> EntryLayout:
        """Return the layout of an entry."""
        return parse_entries(self.entries)

    @property
    def nbytes(self) -> int:
        """Return the bytes to move: entries, queries and output once each."""
        layout = self.layout
        per_query = self.queries * (layout.key_width + layout.value_width)
        numbers = self.rows * layout.heads * (self.slots * layout.width + per_query)
        return numbers * self._dtype.itemsize

    @property
    def flops(self) -> int:
        """Return the multiplications and additions of both matrix products."""
        layout = self.layout
        each = 2 * self.slots * (layout.key_width + layout.value_width)
        return self.rows * layout.heads * self.queries * each

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return random queries and entries, and the number of visible entries."""
        import torch

        layout = self.layout
        form: dict[str, Any] = {"device": self.device, "dtype": self._dtype}
        shape = (self.rows, layout.heads)
        q = torch.randn(*shape, self.queries, layout.key_width, **form)
        entries = torch.randn(*shape, self.slots, layout.width, **form)
        visible = torch.full((self.rows, 1), self.slots, device=self.device)
        return q, entries, visible


def parse_entries(name: str) -> EntryLayout:
    """Parse an entry's widths.

    ``256+32`` is a latent and a rotary key; ``8x64`` is 8 heads with a key and a value
    of 64 each.

    >>> parse_entries("256+32").width
    288
    >>> parse_entries("8x64").heads
    8
    """
    from espnet_mtla.attention import EntryLayout
    from espnet_mtla.errors import UserError

    try:
        if "+" in name:
            rank, rope = (int(part) for part in name.split("+"))
            return EntryLayout(1, rank + rope, rank + rope, 0, rank)
        heads, width = (int(part) for part in name.split("x"))
    except ValueError as error:
        raise UserError(
            f"--entries: {name!r} given, one like 256+32 or 8x64 needed"
        ) from error
    return EntryLayout(heads, 2 * width, width, width, width)

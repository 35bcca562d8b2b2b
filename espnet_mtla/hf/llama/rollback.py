"""A KV cache of single rows that can grow and go back, and one of fixed shape.

Merging adds a token into its chunk's entry for good. To go back into a chunk, the
*running* entries of the newest tokens, each as it stood after its token, are recorded
on demand: at most :data:`RECORD` of them, so that the cache stays compressed.

Letters: ``N`` rows, ``G`` entry heads, ``L`` new tokens, ``R`` recorded ones, ``w``
entry width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

RECORD = 256
"""Tokens that can be taken back one by one while a cache records."""


class RowsTimeline(Timeline):
    """How far rows without a shared prompt have come."""

    def __init__(
        self, rows: int, stride: int, capacity: int, device: torch.device
    ) -> None:
        nothing = torch.zeros(rows, dtype=torch.long, device=device)
        super().__init__(nothing, stride, capacity)

    @property
    def columns(self) -> int:
        """Tokens seen, padding of the batch included."""
        return self.appended

    @property
    def width(self) -> int:
        """Columns that attention weights are shown with."""
        return self.appended

    def of_rows(self, rows: Tensor, capacity: int | None = None) -> Self:
        """That of ``rows (N',)`` of this one, with that capacity."""
        room = self.capacity if capacity is None else capacity
        new = type(self)(len(rows), self.stride, room, self.num_tokens.device)
        new.num_tokens, new.appended = (
            self.num_tokens.index_select(0, rows),
            self.appended,
        )
        return new

    def go_back(self, columns: int, tokens: Tensor) -> None:
        """Forget the newest columns, which were ``tokens (N,)`` in each row."""
        self.num_tokens -= tokens
        self.appended -= columns


class StaticTimeline(RowsTimeline):
    """The same for ``torch.compile``: no number on the host changes with a token."""

    def __init__(
        self, rows: int, stride: int, capacity: int, device: torch.device
    ) -> None:
        super().__init__(rows, stride, capacity, device)
        self._columns = torch.zeros((), dtype=torch.long, device=device)

    @property
    def columns(self) -> int:
        return int(self._columns)

    @property
    def width(self) -> int:
        return self.capacity

    def next_columns(self, count: int) -> Tensor:
        """Columns of the next tokens ``(count,)``, on the device."""
        return self._columns + torch.arange(count, device=self._columns.device)

    @property
    def filled(self) -> int:
        return self.slots

    def reserve(self, tokens: int) -> None:
        """Count, on the device; writing behind the last slot is an IndexError."""
        self._columns.add_(tokens)

    def of_rows(self, rows: Tensor, capacity: int | None = None) -> Self:
        new = super().of_rows(rows, capacity)
        new._columns.copy_(self._columns)
        return new

    def clear(self) -> None:
        """Begin again: what stands in the slots is never read."""
        self.num_tokens.zero_()
        self._columns.zero_()


class RowsCache(KVCache):
    """One layer's cache without a shared prompt: every row owns all its entries.

    Attributes:
        record: running entries of the newest tokens, ``(N, G, R, w)``, the last one
            that of the newest token, NaN where a row has fewer of them; None while
            nothing is recorded.
    """

    timeline: RowsTimeline

    def __init__(
        self, layout: EntryLayout, timeline: RowsTimeline, like: Tensor
    ) -> None:
        no_prompt = like.new_zeros(
            len(timeline.num_tokens), layout.heads, 0, layout.width
        )
        super().__init__(layout, no_prompt, timeline)
        self.record: Tensor | None = None

    def start_recording(self) -> None:
        """From now on every token can be taken back (:data:`RECORD` of them)."""
        if self.record is None:
            self.record = self._newest().unsqueeze(2)

    def write(
        self, entries: Tensor, placement: TokenPlacement, lengths: Tensor | None = None
    ) -> None:
        """Write new tokens' entries, without their gradients; see the base."""
        entries = entries.detach().to(self.suffix.dtype)
        if entries.size(2) == 1 and lengths is not None:
            self._write_some(entries[:, :, 0], placement.slot[:, 0], lengths > 0)
        else:
            super().write(entries, placement, lengths)
        if self.record is not None:
            ends = None if lengths is None else self.record.size(2) + lengths
            self.record = _last(torch.cat((self.record, entries), 2), ends, RECORD)

    def written(self, placement: TokenPlacement, lengths: Tensor | None) -> Tensor:
        """All entries ``(N, G, S, w)`` when new tokens are in; zeros where none is."""
        count = placement.start + (
            placement.index.size(1) if lengths is None else lengths
        )
        entries = self.suffix_entries()
        slot = torch.arange(entries.size(2), device=entries.device)
        behind = slot >= -(-count // self.layout.stride).unsqueeze(1)
        return entries.masked_fill(behind[:, None, :, None], 0)

    def restore_open(self, tokens: Tensor) -> None:
        """Put each row's chunk back as it was ``tokens (N,)`` ago.

        Raises:
            UserError: that is inside a chunk of which nothing is recorded.
        """
        record = self._newest().unsqueeze(2) if self.record is None else self.record
        seen = self.timeline.num_tokens - tokens
        inside, column = seen % self.layout.stride > 0, record.size(2) - 1 - tokens
        back = record[self.timeline.rows, :, column.clamp(min=0)]
        unknown = (column < 0) | back.isnan().flatten(1).any(1)
        if bool((inside & unknown).any()):
            raise UserError(
                f"crop: {int(tokens.max())} tokens back is inside a merged chunk of "
                "which nothing is recorded; call cache.activate_past_recording() "
                f"before its tokens are added (the newest {RECORD} are kept)"
            )
        slot = ((seen - 1) // self.layout.stride).clamp(min=0)
        self._write_some(back, slot, inside)
        if self.record is not None:
            ends = (record.size(2) - tokens).clamp(min=1)
            self.record = _last(record, ends, int(ends.min()))

    def take_rows(self, rows: Tensor, timeline: RowsTimeline) -> None:
        """Go on with ``rows (N',)`` alone, and with the timeline's capacity."""
        filled, old = timeline.filled, self.suffix
        shape = (len(rows), self.layout.heads, timeline.slots, self.layout.width)
        self.prompt = old.new_zeros(len(rows), self.layout.heads, 0, self.layout.width)
        self.suffix, self.timeline = old.new_zeros(shape), timeline
        self.suffix[:, :, :filled] = old[:, :, :filled].index_select(0, rows)
        if self.record is not None:
            self.record = self.record.index_select(0, rows)

    def reorder_in_place(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` was; the timeline is the caller's."""
        used = self.suffix_entries()
        used.copy_(used.index_select(0, rows))
        if self.record is not None:
            self.record = self.record.index_select(0, rows)

    def _newest(self) -> Tensor:
        """Each row's newest entry ``(N, G, w)``."""
        slot = ((self.timeline.num_tokens - 1) // self.layout.stride).clamp(min=0)
        return self.suffix[self.timeline.rows, :, slot]

    def _write_some(self, entries: Tensor, slot: Tensor, where: Tensor) -> None:
        """``entries (N, G, w)`` into ``slot (N,)`` of the rows ``where (N,)`` says."""
        slot = slot.clamp(max=self.suffix.size(2) - 1)  # of those that are not written
        rows = self.timeline.rows
        kept = torch.where(where[:, None, None], entries, self.suffix[rows, :, slot])
        self.suffix[rows, :, slot] = kept


def _last(entries: Tensor, ends: Tensor | None, count: int) -> Tensor:
    """At most ``count`` of ``entries (N, G, R, w)`` before each row's ``ends (N,)``.

    NaN stands before the first of a row that has fewer than others.
    """
    if ends is None:
        return entries[:, :, -count:]
    count = min(count, entries.size(2))
    column = ends.unsqueeze(1) + torch.arange(-count, 0, device=ends.device)
    rows = torch.arange(len(ends), device=ends.device).unsqueeze(1)
    found = entries.transpose(1, 2)[rows, column.clamp(min=0)].transpose(1, 2)
    return found.masked_fill((column < 0)[:, None, :, None], torch.nan)

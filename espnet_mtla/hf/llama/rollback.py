"""A KV cache of independent rows that grows and can be rolled back.

Merging adds a token to its chunk's entry and cannot be undone from the entry alone. To
roll back into a chunk, the *running* entry after each of the newest tokens is recorded
on demand. At most :data:`RECORD` are, so that the cache stays compressed.

Letters: ``N`` rows, ``G`` entry heads, ``L`` new tokens, ``R`` recorded tokens, ``S``
slots, ``w`` entry width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.attention.decoding.window import RawWindow
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

RECORD = 256
"""Number of newest tokens that can be removed one by one while recording."""


class RowsTimeline(Timeline):
    """Token counts of rows without a shared prompt."""

    def __init__(
        self, rows: int, stride: int, capacity: int, device: torch.device
    ) -> None:
        nothing = torch.zeros(rows, dtype=torch.long, device=device)
        super().__init__(nothing, stride, capacity)
        self.uneven = True  # from the start: compiled steps read it

    @property
    def columns(self) -> int:
        """Return the tokens so far, padding of the batch included."""
        return self.appended

    @property
    def width(self) -> int:
        """Return the columns of attention maps."""
        return self.appended

    def copy_rows(self, rows: Tensor, capacity: int | None = None) -> Self:
        """Return a copy of ``rows (N',)``; ``capacity`` None: that of this timeline."""
        room = self.capacity if capacity is None else capacity
        new = type(self)(len(rows), self.stride, room, self.num_tokens.device)
        new.num_tokens, new.appended = (
            self.num_tokens.index_select(0, rows),
            self.appended,
        )
        new.window_slack = self.window_slack
        return new

    def remove_newest(self, columns: int, tokens: Tensor) -> None:
        """Remove the newest columns, of which ``tokens (N,)`` are real in each row."""
        self.num_tokens -= tokens
        self.appended -= columns


class StaticTimeline(RowsTimeline):
    """A timeline for ``torch.compile``: no Python number changes with a token."""

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
        """Return the columns of the next tokens, ``(count,)``, on the device."""
        return self._columns + torch.arange(count, device=self._columns.device)

    @property
    def filled(self) -> int:
        return self.slots

    @property
    def most_appended(self) -> int:
        return self.capacity

    @property
    def least_appended(self) -> int:
        return 0

    def reserve(self, tokens: int) -> None:
        """Count tokens on the device; a write behind the last slot is an IndexError."""
        self._columns.add_(tokens)

    def copy_rows(self, rows: Tensor, capacity: int | None = None) -> Self:
        new = super().copy_rows(rows, capacity)
        new._columns.copy_(self._columns)
        return new

    def clear(self) -> None:
        """Reset to no tokens; the entries in the slots are no longer read."""
        self.num_tokens.zero_()
        self._columns.zero_()


class RowsCache(KVCache):
    """The cache of one layer without a shared prompt.

    Attributes:
        record: running entries after each of the newest tokens, ``(N, G, R, w)``, the
            newest last; NaN in front if a row has fewer; None while not recording.
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
        """Make the newest :data:`RECORD` tokens from now on removable."""
        if self.record is None:
            self.record = self._newest().unsqueeze(2)
            self.timeline.window_slack = RECORD
            if self.raw is not None:
                self.raw.enlarge(self.layout, self.timeline)

    def write(
        self, entries: Tensor, placement: TokenPlacement, lengths: Tensor | None = None
    ) -> None:
        """Write entries of new tokens, without their gradients; see the base class."""
        entries = entries.detach().to(self.suffix.dtype)
        if entries.size(2) == 1 and lengths is not None:
            running, raw = self.layout.split(entries)
            self._write_rows(running[:, :, 0], placement.slot[:, 0], lengths > 0)
            if (
                self.raw is not None
                and raw is not None
                and placement.window is not None
            ):
                rows = self.timeline.rows
                self.raw.write(raw, placement.window.slot, rows, lengths)
        else:
            super().write(entries, placement, lengths)
        entries, _ = self.layout.split(entries)
        if self.record is not None:
            ends = None if lengths is None else self.record.size(2) + lengths
            self.record = _newest_entries(
                torch.cat((self.record, entries), 2), ends, RECORD
            )

    def filled_entries(
        self, placement: TokenPlacement, lengths: Tensor | None
    ) -> Tensor:
        """Return all entries ``(N, G, S, w)`` with new tokens; zeros in empty slots."""
        count = placement.start + (
            placement.index.size(1) if lengths is None else lengths
        )
        entries = self.suffix_entries()
        slot = torch.arange(entries.size(2), device=entries.device)
        behind = slot >= -(-count // self.layout.stride).unsqueeze(1)
        return entries.masked_fill(behind[:, None, :, None], 0)

    def restore_open(self, tokens: Tensor) -> None:
        """Undo the merging of each row's last tokens; the caller shortens the timeline.

        A row that then ends inside a chunk has an open entry, the merge of only some of
        the chunk's tokens. It is written back from the record of earlier values.

        Args:
            tokens: number of tokens to undo in each row, ``(N,)``.
        Raises:
            UserError: a row would end inside a chunk whose value at that token was not
                recorded, or raw tokens of the window have been overwritten.
        """
        record = self._newest().unsqueeze(2) if self.record is None else self.record
        seen = self.timeline.num_tokens - tokens
        ends_inside = seen % self.layout.stride > 0
        column = record.size(2) - 1 - tokens
        earlier = record[self.timeline.rows, :, column.clamp(min=0)]
        unknown = (column < 0) | earlier.isnan().flatten(1).any(1)
        lost = ends_inside & unknown
        if self.raw is not None:
            lost = lost | self.raw.has_lost(self.layout, self.timeline, seen)
        if bool(lost.any()):
            inside = "inside the raw window or" if self.raw is not None else "inside"
            raise UserError(
                f"crop: {int(tokens[lost].max())} tokens back is {inside} a merged "
                "chunk, and was not recorded; call cache.activate_past_recording() "
                f"before the tokens are added (the newest {RECORD} are recorded)"
            )
        if self.raw is not None:
            self.raw.note_oldest(self.timeline)
        slot = ((seen - 1) // self.layout.stride).clamp(min=0)
        self._write_rows(earlier, slot, ends_inside)
        if self.record is not None:
            ends = (record.size(2) - tokens).clamp(min=1)
            self.record = _newest_entries(record, ends, int(ends.min()))

    def select_and_resize(self, rows: Tensor, timeline: RowsTimeline) -> None:
        """Continue with ``rows (N',)`` and with the capacity of ``timeline``."""
        filled, old = timeline.filled, self.suffix
        shape = (len(rows), self.layout.heads, timeline.slots, self.layout.width)
        self.prompt = old.new_zeros(len(rows), self.layout.heads, 0, self.layout.width)
        self.suffix, self.timeline = old.new_zeros(shape), timeline
        self.suffix[:, :, :filled] = old[:, :, :filled].index_select(0, rows)
        if self.raw is not None:
            old_window = self.raw
            tail = old_window.tail.index_select(0, rows)
            self.raw = RawWindow(self.layout, tail, timeline, self.options)
            self.raw.copy_rows(old_window, rows)
        if self.record is not None:
            self.record = self.record.index_select(0, rows)

    def reorder_in_place(self, rows: Tensor) -> None:
        """Continue row ``rows[i]`` in row i; the caller reorders the timeline."""
        used = self.suffix_entries()
        used.copy_(used.index_select(0, rows))
        if self.raw is not None:
            for part in (*self.raw.by_row(), self.raw.oldest):
                part.copy_(part.index_select(0, rows))
        if self.record is not None:
            self.record = self.record.index_select(0, rows)

    def _newest(self) -> Tensor:
        """Return the newest entry of each row, ``(N, G, w)``."""
        slot = ((self.timeline.num_tokens - 1) // self.layout.stride).clamp(min=0)
        return self.suffix[self.timeline.rows, :, slot]

    def _write_rows(self, entries: Tensor, slot: Tensor, where: Tensor) -> None:
        """Write ``entries (N, G, w)`` into ``slot (N,)`` if ``where (N,)`` is True."""
        slot = slot.clamp(max=self.suffix.size(2) - 1)  # rows not written may be full
        rows = self.timeline.rows
        old = self.suffix[rows, :, slot]
        new = torch.where(where[:, None, None], entries, old)
        self.suffix[rows, :, slot] = new


def _newest_entries(entries: Tensor, ends: Tensor | None, count: int) -> Tensor:
    """Return the ``count`` entries before each row's end.

    Args:
        entries: ``(N, G, R, w)``.
        ends: end of each row among the R, ``(N,)``; None: R.
        count: largest number of entries; rows with fewer have NaN in front.
    """
    if ends is None:
        return entries[:, :, -count:]
    count = min(count, entries.size(2))
    column = ends.unsqueeze(1) + torch.arange(-count, 0, device=ends.device)
    rows = torch.arange(len(ends), device=ends.device).unsqueeze(1)
    newest = entries.transpose(1, 2)[rows, column.clamp(min=0)].transpose(1, 2)
    return newest.masked_fill((column < 0)[:, None, :, None], torch.nan)

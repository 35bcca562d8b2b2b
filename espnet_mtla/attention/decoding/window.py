"""The raw window of a cache: unmerged entries of the newest tokens of each row.

A query sees the merged chunks up to the window, and the tokens after them one by one;
:class:`.TemporalLatentConfig` has the rule. What the window needs beside the merged
chunks has a constant size, ``R = window + stride - 1`` entries (``window_room``):

- the *tail*, the last R - 1 tokens of each prompt, one copy an utterance. The newest
  token comes first: the tail that a query still sees is then a prefix, and any back-end
  computes attention over it, for all hypotheses of the utterance together.
- the *ring*, the newest R tokens after the prompt, in each row. The token that is
  number n after the prompt is in slot ``n % R`` and overwrites token ``n - R``, which
  no later query sees.

Letters: ``B`` utterances, ``N`` rows, ``G`` entry heads, ``H`` query heads, ``L`` new
tokens of a row, ``F`` ring slots in use, ``w`` entry width, ``d`` key width, ``e``
value width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend.torch import exponentials, scaled_scores
from espnet_mtla.attention.decoding.layout import CacheOptions, EntryLayout
from espnet_mtla.attention.decoding.quantise import (
    put_entries,
    quantise,
    read_entries,
    stored_type,
)
from espnet_mtla.attention.decoding.rows import put_rows
from espnet_mtla.attention.precision import NEG_INF

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.timeline import Timeline


@dataclass(frozen=True)
class WindowPlacement:
    """Where new tokens stand in the window and what each sees; one for all layers.

    Attributes:
        slot: ring slot of each token, ``(N, L)``.
        in_prompt: merged chunks of the prompt that it sees, ``(N, L)``.
        in_suffix: merged chunks of the suffix that it sees, ``(N, L)``.
        in_tail: tokens of the prompt's tail that it sees, ``(N, L)``.
        hidden: true at ring slots that it does not see. For L = 1 the ring holds the
            new token, ``(N, 1, F)``. Otherwise the ring is that before the new tokens,
            which follow it, ``(N, L, F + L)``.
        sees_suffix: false if no token can see a merged chunk of the suffix.
        sees_tail: false if no token can see the tail.
    """

    slot: Tensor
    in_prompt: Tensor
    in_suffix: Tensor
    in_tail: Tensor
    hidden: Tensor
    sees_suffix: bool
    sees_tail: bool

    @classmethod
    def locate(
        cls, layout: EntryLayout, timeline: Timeline, index: Tensor
    ) -> WindowPlacement:
        """Place the tokens ``index (N, L)``, for which the timeline has reserved room.

        ``index`` counts the tokens of a row, those of its prompt included.
        """
        size, tokens = ring_size(layout, timeline), index.size(1)
        chunks = (index + (layout.offset + 1 - layout.window)) // layout.stride
        chunks = chunks.clamp(min=0)
        of_prompt = timeline.first_suffix_chunk.unsqueeze(1)
        begin = timeline.first_token.unsqueeze(1)
        number = index - begin  # counted from the prompt's end, as ``oldest``
        oldest = (chunks * layout.stride - layout.offset).clamp(min=0) - begin
        before = 0 if tokens == 1 else tokens
        used = min(max(timeline.most_appended - before, 0), size)
        newest = number if tokens == 1 else number[:, :1] - 1
        slots = torch.arange(used, device=index.device)
        in_ring = (newest - (newest - slots) % size).unsqueeze(1)  # (N, 1, F)
        limit = oldest.clamp(min=0).unsqueeze(2)
        hidden = in_ring < limit
        if tokens > 1:
            new = number.unsqueeze(1)
            later = (new < limit) | (new > number.unsqueeze(2))
            hidden = torch.cat((hidden, later), dim=2)
        return cls(
            slot=number % size,
            in_prompt=torch.minimum(chunks, of_prompt),
            in_suffix=(chunks - of_prompt).clamp(min=0),
            in_tail=(-oldest).clamp(min=0, max=layout.window_room - 1),
            hidden=hidden,
            sees_suffix=timeline.most_appended > layout.window,
            sees_tail=timeline.least_appended - tokens + 1 < layout.window_room,
        )

    def select(self, pick: Callable[[Tensor], Tensor]) -> WindowPlacement:
        """Return the placement of some of the tokens as queries.

        ``pick`` selects them from ``(N, L, ...)``. ``slot`` remains that of all tokens.
        """
        return replace(
            self,
            in_prompt=pick(self.in_prompt),
            in_suffix=pick(self.in_suffix),
            in_tail=pick(self.in_tail),
            hidden=pick(self.hidden),
        )


class RawWindow:
    """Tail and ring of one layer.

    Args:
        layout: of an entry.
        tail: newest tokens of each prompt, the newest first, ``(B, G, R - 1, w)`` or
            fewer.
        timeline: token counts of the rows.
        options: how entries are stored.

    Attributes:
        size: slots of the ring: R, or the capacity of a row if that is less; more if
            the timeline has a ``window_slack``.
        oldest: index of a token of each row, ``(N,)``: those before it have been
            overwritten. Only :meth:`note_oldest` moves it.
    """

    def __init__(
        self,
        layout: EntryLayout,
        tail: Tensor,
        timeline: Timeline,
        options: CacheOptions,
    ) -> None:
        self.room, self.size = layout.window_room, ring_size(layout, timeline)
        self.dtype, self.format = tail.dtype, options.dtype
        self.oldest = torch.zeros_like(timeline.num_tokens)
        shape = (len(timeline.num_tokens), layout.heads, self.size, layout.width)
        self.tail, self.ring = tail, tail.new_zeros(0)
        self.tail_scale = self.ring_scale = None
        if self.format is None:
            self.ring = tail.new_zeros(shape)
            return
        self.tail, self.tail_scale = quantise(tail, self.format)
        self.ring = tail.new_zeros(shape, dtype=stored_type(self.format))
        self.ring_scale = self.tail_scale.new_zeros(*shape[:3], 1)

    def used_entries(self, timeline: Timeline) -> int:
        """Return the number of entries in use by all rows and prompt copies."""
        in_tail = timeline.prompt_tokens.clamp(max=self.room - 1)
        in_ring = timeline.num_tokens - timeline.first_token
        return int(in_tail.sum() + in_ring.clamp(max=self.room).sum())

    def by_row(self) -> list[Tensor]:
        """Return the tensors with one row a hypothesis."""
        return [x for x in (self.ring, self.ring_scale) if x is not None]

    def by_prompt(self) -> list[Tensor]:
        """Return the tensors with one row a prompt copy."""
        return [x for x in (self.tail, self.tail_scale) if x is not None]

    def set_by_row(self, parts: Iterable[Tensor]) -> None:
        """Replace the tensors that :meth:`by_row` returns."""
        self.ring, *scale = parts
        self.size = self.ring.size(2)
        if self.ring_scale is not None:
            (self.ring_scale,) = scale

    def join(self, other: RawWindow, prompts: Tensor, rows: Tensor) -> None:
        """Put the window of other rows in the place of rows, or behind the last.

        A ring that is smaller than R has not been filled, so that slots stay the same.
        """
        pairs = zip(self.by_row(), other.by_row(), strict=True)
        self.set_by_row([put_rows(old, new, rows) for old, new in pairs])
        self.size = self.ring.size(2)
        self.tail = put_rows(self.tail, other.tail, prompts)
        if self.tail_scale is not None and other.tail_scale is not None:
            self.tail_scale = put_rows(self.tail_scale, other.tail_scale, prompts)

    def select_prompts(self, index: Tensor) -> None:
        """Select prompt copies."""
        self.tail = self.tail.index_select(0, index)
        if self.tail_scale is not None:
            self.tail_scale = self.tail_scale.index_select(0, index)

    def copy_rows(self, source: RawWindow, rows: Tensor) -> None:
        """Copy ``rows (N',)`` of another window, whose ring is not larger.

        A ring that is smaller than R has not been filled, so that slots stay the same.
        """
        self.tail = source.tail.index_select(0, rows)
        self.ring[:, :, : source.size] = source.ring.index_select(0, rows)
        self.oldest = source.oldest.index_select(0, rows)

    # Removing the newest tokens of rows without a prompt -----------------------------

    def note_oldest(self, timeline: Timeline) -> None:
        """Note which tokens are in the ring, before the newest ones are removed."""
        first = timeline.num_tokens - self.size
        self.oldest = torch.maximum(self.oldest, first)

    def has_lost(self, layout: EntryLayout, timeline: Timeline, seen: Tensor) -> Tensor:
        """Return whether rows shortened to ``seen (N,)`` tokens lack raw tokens."""
        chunks = (seen + (layout.offset + 1 - layout.window)) // layout.stride
        needed = chunks.clamp(min=0) * layout.stride - layout.offset
        present = torch.maximum(self.oldest, timeline.num_tokens - self.size)
        needed = needed.clamp(min=0)
        return (needed < present) & (needed < seen)

    def enlarge(self, layout: EntryLayout, timeline: Timeline) -> None:
        """Move the tokens into a ring of the size that the timeline has room for."""
        self.note_oldest(timeline)
        old, old_size = self.ring, self.size
        self.size = ring_size(layout, timeline)
        self.ring = old.new_zeros(*old.shape[:2], self.size, old.size(3))
        back = torch.arange(old_size, device=old.device)
        token = timeline.num_tokens.unsqueeze(1) - 1 - back  # (N, old size)
        row, column = (token >= 0).nonzero(as_tuple=True)
        token = token[row, column]
        self.ring[row, :, token % self.size] = old[row, :, token % old_size]

    def tail_entries(self) -> Tensor:
        """Return the tail, ``(B, G, R - 1, w)`` or shorter."""
        return self._read(self.tail, self.tail_scale)

    def ring_entries(self, used: int) -> Tensor:
        """Return the first ``used`` slots of the ring, ``(N, G, F, w)``."""
        scale = self.ring_scale
        return self._read(
            self.ring[:, :, :used], None if scale is None else scale[:, :, :used]
        )

    def put(self, rows: Tensor, slots: Tensor, entries: Tensor) -> None:
        """Write entries ``(n, G, w)``; number i goes to ``slots[i]`` of ``rows[i]``."""
        put_entries((self.ring, self.ring_scale), rows, slots, entries, self.format)

    def write(
        self, entries: Tensor, slot: Tensor, rows: Tensor, count: Tensor | None
    ) -> None:
        """Write the new tokens of each row; of more than R, the newest R.

        Args:
            entries: ``(N, G, L, w)``.
            slot: ring slot of each token, ``(N, L)``.
            rows: 0 to N - 1.
            count: valid tokens of each row, ``(N,)``; None: all L.
        """
        tokens = entries.size(2)
        if tokens == 1 and (count is None or self.format is None):
            new, place = entries[:, :, 0], slot[:, 0]
            if count is not None:  # written without reading values of a GPU
                old = self.ring[rows, :, place]
                new = torch.where((count > 0)[:, None, None], new, old)
            self.put(rows, place, new)
            return
        if count is None:
            count = torch.full_like(rows, tokens)
        step, count = torch.arange(tokens, device=slot.device), count.unsqueeze(1)
        stays = (step < count) & (step >= count - self.size)
        row, column = stays.nonzero(as_tuple=True)
        self.put(row, slot[row, column], entries[row, :, column])

    def _read(self, numbers: Tensor, scale: Tensor | None) -> Tensor:
        return read_entries(numbers, scale, self.format, self.dtype)


def ring_size(layout: EntryLayout, timeline: Timeline) -> int:
    """Return the number of slots of the ring of each row."""
    return layout.ring_size(timeline.capacity, timeline.window_slack)


def newest_first(entries: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Return the last ``count`` tokens of each prompt, the newest first.

    Args:
        entries: ``(B, G, T, w)``.
        lengths: valid tokens of each prompt, ``(B,)``.
        count: their number; rows with fewer tokens repeat their first one.
    """
    step = torch.arange(min(count, entries.size(2)), device=entries.device)
    index = (lengths.unsqueeze(1) - 1 - step).clamp(min=0)
    rows = torch.arange(len(lengths), device=entries.device).unsqueeze(1)
    return entries.transpose(1, 2)[rows, index].transpose(1, 2).contiguous()


def attend_masked(
    q: Tensor, entries: Tensor, layout: EntryLayout, hidden: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention of queries that see any subset of a row's entries.

    In a ring the tokens that a query sees are no prefix, as back-ends need. The ring is
    small; PyTorch computes it on every device.

    Args:
        q: queries in the space of the entries' keys, ``(N, H, L, d)``.
        entries: ``(N, G, S, w)``, all of them finite.
        layout: of an entry.
        hidden: true at entries that a query does not see, ``(N, L, S)``.
        scale: factor of the scores.

    Returns:
        Output ``(N, H, L, e)``, 0 for a query that sees nothing, and log-sum-exp
        ``(N, H, L)``.
    """
    (rows, heads, tokens, _), groups = q.shape, layout.heads
    by_group = q.reshape(rows, groups, heads // groups * tokens, -1)
    scores = scaled_scores(by_group, layout.keys(entries), scale)
    by_head = scores.view(rows, heads, tokens, -1)
    by_head.masked_fill_(hidden.unsqueeze(1), NEG_INF)
    peak, total = exponentials(scores)
    values = layout.values(entries)
    weights = (scores / total.clamp(min=0.5)).to(values.dtype)
    out = (weights @ values).to(q.dtype).view(rows, heads, tokens, -1)
    return out, (peak + total.log()).view(rows, heads, tokens)

"""The KV cache: one copy of a prompt an utterance, one suffix row a hypothesis.

An *entry* is what attention stores of a chunk of ``stride`` tokens: MTLA's merged
latent and rotary key, or at stride 1 a token's latent (MLA) or keys and values (MHA,
GQA, MQA). A *slot* is room for one entry; :mod:`.timeline` has the index arithmetic.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``G`` entry heads,
``P`` prompt slots, ``S`` suffix slots, ``L`` new tokens, ``w`` entry width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend import choose_backend
from espnet_mtla.attention.decoding.cache_rows import CacheRows
from espnet_mtla.attention.decoding.layout import (
    DEFAULT_CACHE,
    CacheOptions,
    EntryLayout,
)
from espnet_mtla.attention.decoding.quantise import (
    put_entries,
    quantise,
    read_entries,
    stored_type,
)
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.attention.decoding.window import RawWindow, newest_first


class KVCache(CacheRows):
    """The cache of one layer, allocated once and written in place.

    ``prompt (B, G, P, w)`` holds the finished chunks of the prompts. All hypotheses of
    an utterance read the same copy, which is not written again until the utterance is
    done and another one takes its place (:meth:`join`).

    ``suffix (N, G, S, w)`` holds the later chunks of each row, beginning with the one
    that the prompt may leave open. That chunk is copied to every hypothesis, because
    merging a token changes it in place and must not change the sibling's.

    Slots that were never written hold arbitrary numbers; attention does not use them.

    With 8-bit numbers, prompt and suffix have scales beside them. The open chunk of a
    row is then also stored in full precision, ``running (N, G, w)``: quantising the
    running sum again after every token would add up rounding errors.

    With ``layout.window``, ``raw`` holds the unmerged entries of the newest tokens
    (:mod:`.window`). The chunks of these tokens are in prompt and suffix too, and
    hidden until the window has left them.

    The layers of a decoder share one timeline. The decoder then changes the timeline
    itself and calls the methods that leave it alone: :meth:`repeat_rows`,
    :meth:`reorder_into`, :meth:`select_rows`.

    Args:
        layout: of an entry.
        prompt: entries of the prompts' finished chunks, ``(B, G, P, w)``.
        timeline: token counts of the rows.
        options: how the cache is stored and read.
        prompt_layout: layout of ``prompt``; None: ``layout``.
        tail: raw entries of the prompts' last tokens, :class:`.RawWindow`; None: none.
    """

    def __init__(
        self,
        layout: EntryLayout,
        prompt: Tensor,
        timeline: Timeline,
        options: CacheOptions = DEFAULT_CACHE,
        prompt_layout: EntryLayout | None = None,
        tail: Tensor | None = None,
    ) -> None:
        self.layout, self.options = layout, options
        self.prompt_layout = prompt_layout or layout
        self.backend = choose_backend(
            options.backend, layout, prompt.dtype, prompt.device
        )
        self.dtype, self.timeline = prompt.dtype, timeline
        self.raw: RawWindow | None = None
        if layout.window > 0:
            tail = prompt[:, :, :0] if tail is None else tail
            self.raw = RawWindow(layout, tail, timeline, options)
        shape = (len(timeline.num_tokens), layout.heads, timeline.slots, layout.width)
        self.prompt, self.suffix = prompt, prompt.new_zeros(0)
        self.prompt_scale = self.suffix_scale = self.running = None
        if options.dtype is None:
            self.suffix = prompt.new_zeros(shape)
            return
        self.prompt, self.prompt_scale = quantise(prompt, options.dtype)
        self.suffix = prompt.new_zeros(shape, dtype=stored_type(options.dtype))
        self.suffix_scale = self.prompt_scale.new_zeros(*shape[:3], 1)
        if layout.stride > 1:
            self.running = prompt.new_zeros(shape[0], layout.heads, layout.width)

    @classmethod
    def empty(
        cls,
        layout: EntryLayout,
        rows: int,
        capacity: int,
        like: Tensor,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> KVCache:
        """Return a cache of ``rows`` empty rows with room for ``capacity`` tokens each.

        Args:
            layout: of an entry.
            rows: N.
            capacity: tokens of a row.
            like: gives dtype and device.
            options: how the cache is stored and read.
        """
        prompt = like.new_zeros(rows, layout.heads, 0, layout.width)
        nothing = torch.zeros(rows, dtype=torch.long, device=like.device)
        timeline = Timeline(nothing, layout.stride, capacity, layout.offset)
        return cls(layout, prompt, timeline, options)

    @classmethod
    def from_prompt(
        cls,
        layout: EntryLayout,
        entries: Tensor,
        lengths: Tensor,
        capacity: int,
        options: CacheOptions = DEFAULT_CACHE,
        expanded: tuple[EntryLayout, Tensor] | None = None,
    ) -> KVCache:
        """Return a cache that holds prompts.

        The running entry of a chunk's last token is the finished chunk's entry: every
        ``stride``-th entry goes into the prompt part. The running entry of a row's last
        token goes into suffix slot 0.

        Args:
            layout: of an entry.
            entries: running entries of all prompt tokens, ``(B, G, T, w)``; with a
                window also the raw ones, ``(B, 2 G, T, w)``.
            lengths: valid tokens of each prompt, ``(B,)``; the others are padding.
            capacity: tokens of a row that there is room for after the prompt.
            options: how the cache is stored and read.
            expanded: layout and entries to store instead of the finished chunks'.
        """
        s, (entries, raw) = layout.stride, layout.split(entries)
        timeline = Timeline(lengths, s, capacity, layout.offset)
        tail = None
        if raw is not None:
            tail = newest_first(raw, lengths, layout.tail_size(raw.size(2)))
        finished = layout.finished(entries).contiguous()
        prompt_layout, finished = expanded or (layout, finished)
        cache = cls(layout, finished, timeline, options, prompt_layout, tail)
        if s > 1 and entries.size(2) > 0:
            # In a row without an open chunk the first token overwrites this unread.
            last = (lengths - 1).clamp(min=0)
            newest = entries[timeline.rows, :, last]
            cache._put(timeline.rows, torch.zeros_like(last), newest)
            if cache.running is not None:
                cache.running.copy_(newest)
        return cache

    @property
    def beam(self) -> int:
        """Number of rows that share one copy of a prompt."""
        return self.suffix.size(0) // self.prompt.size(0)

    @property
    def num_tokens(self) -> Tensor:
        """Tokens of each row, those of the prompt included, ``(N,)``."""
        return self.timeline.num_tokens

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(part.nbytes for part in (*self.by_prompt(), *self.by_row()))

    @property
    def used_nbytes(self) -> int:
        """Bytes of the entries in use."""
        time, layout, form = self.timeline, self.layout, self.options.dtype
        in_prompt, size = int(time.prompt_chunks.sum()), self.dtype.itemsize
        in_suffix = int(time.suffix_chunks.sum())
        raw = 0 if self.raw is None else self.raw.used_entries(time)
        return (
            self.prompt_layout.nbytes(in_prompt, size, form)
            + layout.suffix_bytes(in_suffix, len(time.rows), size, form)
            + layout.nbytes(raw, size, form)
        )

    def prompt_entries(self) -> Tensor:
        """Return the prompt's entries ``(B, G, P, w)``, in ``prompt_layout``."""
        return self._read(self.prompt, self.prompt_scale)

    def suffix_entries(self) -> Tensor:
        """Return the suffix slots that any row may use, ``(N, G, S', w)``."""
        filled, scale = self.timeline.filled, self.suffix_scale
        return self._read(
            self.suffix[:, :, :filled], None if scale is None else scale[:, :, :filled]
        )

    def open_entry(self, placement: TokenPlacement) -> Tensor:
        """Return the entry of the chunk that each row's first new token continues.

        Returns:
            ``(N, G, w)``; arbitrary in rows where ``placement.is_open`` is false.
        """
        if self.running is not None:
            return self.running
        return self.suffix[self.timeline.rows, :, placement.slot[:, 0]]

    def write(
        self, entries: Tensor, placement: TokenPlacement, lengths: Tensor | None = None
    ) -> None:
        """Write the running entries of L new tokens a row.

        A running entry includes the earlier tokens of its chunk, so it replaces the
        entry in the chunk's slot. Of several tokens in a chunk only the last is
        written.

        Args:
            entries: ``(N, G, L, w)``; with a window also the raw ones,
                ``(N, 2 G, L, w)``.
            placement: where the tokens stand.
            lengths: valid tokens of each row, ``(N,)``; None: all L.
        """
        tokens, s, rows = entries.size(2), self.layout.stride, self.timeline.rows
        entries, raw = self.layout.split(entries)
        if raw is not None and self.raw is not None and placement.window is not None:
            self.raw.write(raw, placement.window.slot, rows, lengths)
        if tokens == 1 and lengths is None:
            self._put(rows, placement.slot[:, 0], entries[:, :, 0])
            if self.running is not None:
                self.running.copy_(entries[:, :, 0])
            return
        step = torch.arange(tokens, device=entries.device)
        count = torch.full_like(placement.start, tokens) if lengths is None else lengths
        after = placement.index + (1 + self.layout.offset)
        ends = (after % s == 0) | (step == count.unsqueeze(1) - 1)
        row, column = (ends & (step < count.unsqueeze(1))).nonzero(as_tuple=True)
        self._put(row, placement.slot[row, column], entries[row, :, column])
        if self.running is not None:
            newest = entries[rows, :, (count - 1).clamp(min=0)]
            changed = (count > 0)[:, None, None]
            self.running.copy_(torch.where(changed, newest, self.running))

    def copy(self, rows: Tensor | None = None, capacity: int | None = None) -> KVCache:
        """Return a copy of ``rows`` of this cache, with another capacity.

        Only for caches whose rows share no prompt and that are not in 8 bits.

        Args:
            rows: ``(N',)``, may repeat; None: all.
            capacity: tokens of a row after the prompt; None: as before.
        """
        rows = self.timeline.rows if rows is None else rows
        timeline = self.timeline.select_rows(rows, rows)
        timeline.capacity = capacity or timeline.capacity
        prompt = self.prompt.index_select(0, rows)
        new = KVCache(self.layout, prompt, timeline, self.options)
        filled = timeline.filled
        new.suffix[:, :, :filled] = self.suffix[:, :, :filled].index_select(0, rows)
        if self.raw is not None and new.raw is not None:
            new.raw.copy_rows(self.raw, rows)
        return new

    def _read(self, numbers: Tensor, scale: Tensor | None) -> Tensor:
        return read_entries(numbers, scale, self.options.dtype, self.dtype)

    def _put(self, rows: Tensor, slots: Tensor, entries: Tensor) -> None:
        """Write entries ``(n, G, w)``; number i goes to ``slots[i]`` of ``rows[i]``."""
        target = self.suffix, self.suffix_scale
        put_entries(target, rows, slots, entries, self.options.dtype)

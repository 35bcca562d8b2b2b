"""The KV cache: one copy of a prompt an utterance, one suffix row a hypothesis.

An *entry* is what attention keeps of a chunk of ``stride`` tokens: MTLA's merged
latent and rotary key, or at stride 1 a token's latent (MLA) or keys and values (MHA,
GQA, MQA). Lengths in tokens are called ``seen``; lengths in entries ``entries`` or
``slots``.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``G`` entry heads,
``P`` prompt slots, ``S`` suffix slots, ``L`` new tokens, ``w`` entry width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend import choose_backend
from espnet_mtla.attention.decoding.layout import (
    DEFAULT_CACHE,
    CacheOptions,
    EntryLayout,
)
from espnet_mtla.attention.decoding.quantise import quantise, restore, stored_type
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement


class KVCache:
    """One layer's cache, allocated once and written in place.

    ``prompt (B, G, P, w)`` holds the prompt's finished chunks. ``suffix (N, G, S, w)``
    starts with the prompt's open chunk, if any, and grows with the tokens; each row
    owns its own, so that merging a token into an open chunk never reaches a sibling.
    What stands in a slot that nothing was written to is never used.

    In 8 bits either has scales beside it, and the chunk that is open, if chunks are
    merged, is kept exactly: ``running (N, G, w)``.

    ``timeline`` says which slots these are. The layers of a decoder share one; then the
    decoder moves it, and the caches by :meth:`move` and :meth:`take` alone.
    """

    def __init__(
        self,
        layout: EntryLayout,
        prompt: Tensor,
        timeline: Timeline,
        options: CacheOptions = DEFAULT_CACHE,
        prompt_layout: EntryLayout | None = None,
    ) -> None:
        self.layout, self.options = layout, options
        self.prompt_layout = prompt_layout or layout
        self.backend = choose_backend(
            options.backend, layout, prompt.dtype, prompt.device
        )
        self.dtype, self.timeline = prompt.dtype, timeline
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
        """No prompt part; dtype and device are those of ``like``."""
        prompt = like.new_zeros(rows, layout.heads, 0, layout.width)
        nothing = torch.zeros(rows, dtype=torch.long, device=like.device)
        return cls(layout, prompt, Timeline(nothing, layout.stride, capacity), options)

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
        """Keep a prompt's finished chunks; its open one becomes the suffix's first.

        Args:
            entries: running entries of every prompt token, ``(B, G, T, w)``.
            lengths: prompt tokens of each row, ``(B,)``; those behind are padding.
            capacity: room for so many tokens a row after the prompt.
            expanded: what is kept of the finished chunks instead of their entries.
        """
        s, timeline = layout.stride, Timeline(lengths, layout.stride, capacity)
        finished = entries[:, :, s - 1 :: s].contiguous()
        prompt_layout, finished = expanded or (layout, finished)
        cache = cls(layout, finished, timeline, options, prompt_layout)
        if s > 1 and entries.size(2) > 0:
            # Where no chunk is open the first token will write over this unread.
            last = (lengths - 1).clamp(min=0)
            newest = entries[timeline.rows, :, last]
            cache._put(timeline.rows, torch.zeros_like(last), newest)
            if cache.running is not None:
                cache.running.copy_(newest)
        return cache

    @property
    def beam(self) -> int:
        """Rows that share one copy of a prompt."""
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
        """Bytes of the entries that hold something."""
        time, options = self.timeline, self.options
        in_prompt = int(time.prompt_chunks.sum())
        in_suffix = int(
            (-(-time.num_tokens // self.layout.stride) - time.first_suffix_chunk).sum()
        )
        return self.prompt_layout.nbytes(
            in_prompt, self.dtype.itemsize, options.dtype
        ) + self.layout.suffix_bytes(
            in_suffix, len(time.rows), self.dtype.itemsize, options.dtype
        )

    def by_row(self) -> list[Tensor]:
        """All memory that has a row a hypothesis."""
        parts = (self.suffix, self.suffix_scale, self.running)
        return [part for part in parts if part is not None]

    def by_prompt(self) -> list[Tensor]:
        """All memory that has a row a prompt copy."""
        parts = (self.prompt, self.prompt_scale)
        return [part for part in parts if part is not None]

    def prompt_entries(self) -> Tensor:
        """The prompt ``(B, G, P, w)``, as ``prompt_layout`` says."""
        return self._read(self.prompt, self.prompt_scale)

    def suffix_entries(self) -> Tensor:
        """The suffix as far as any row can have come, ``(N, G, S', w)``."""
        filled, scale = self.timeline.filled, self.suffix_scale
        return self._read(
            self.suffix[:, :, :filled], None if scale is None else scale[:, :, :filled]
        )

    def open_entry(self, placement: TokenPlacement) -> Tensor:
        """The entry that the first new token goes on with ``(N, G, w)``.

        It means something where ``placement.is_open``.
        """
        if self.running is not None:
            return self.running
        return self.suffix[self.timeline.rows, :, placement.slot[:, 0]]

    def write(
        self, entries: Tensor, placement: TokenPlacement, lengths: Tensor | None = None
    ) -> None:
        """Write the running entries ``(N, G, L, w)`` of L new tokens a row.

        ``lengths (N,)`` says how many of them are real, where rows differ. A token of
        an open chunk replaces the chunk's entry, since its running sum includes it.
        """
        tokens, s, rows = entries.size(2), self.layout.stride, self.timeline.rows
        if tokens == 1 and lengths is None:
            self._put(rows, placement.slot[:, 0], entries[:, :, 0])
            if self.running is not None:
                self.running.copy_(entries[:, :, 0])
            return
        step = torch.arange(tokens, device=entries.device)
        count = torch.full_like(placement.start, tokens) if lengths is None else lengths
        ends = ((placement.index + 1) % s == 0) | (step == count.unsqueeze(1) - 1)
        row, column = (ends & (step < count.unsqueeze(1))).nonzero(as_tuple=True)
        self._put(row, placement.slot[row, column], entries[row, :, column])
        if self.running is not None:
            newest = entries[rows, :, (count - 1).clamp(min=0)]
            kept = (count > 0)[:, None, None]
            self.running.copy_(torch.where(kept, newest, self.running))

    def fork(self, beam: int, share_prompt: bool = True) -> None:
        """Turn each row into ``beam`` rows beside each other."""
        self.timeline.fork(beam, share_prompt)
        self.repeat_rows(beam, share_prompt)

    def repeat_rows(self, beam: int, share_prompt: bool = True) -> None:
        """:meth:`fork` without the timeline."""
        self._set_by_row(part.repeat_interleave(beam, 0) for part in self.by_row())
        if not share_prompt:
            copies = torch.arange(len(self.prompt), device=self.prompt.device)
            self._select_prompts(copies.repeat_interleave(beam))

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` was, one of the same utterance's."""
        self.reorder_into(rows, self.scratch())
        self.timeline.reorder(rows)

    def scratch(self) -> list[Tensor]:
        """Memory for :meth:`move`; caches of the same shapes can pass it on."""
        return [torch.zeros_like(part) for part in self.by_row()]

    @torch.no_grad()
    def reorder_into(self, rows: Tensor, scratch: list[Tensor]) -> list[Tensor]:
        """:meth:`reorder` without the timeline, by way of spare memory.

        No gradient goes through it.

        Returns:
            What is spare from now on.
        """
        old, filled = self.by_row(), self.timeline.filled
        for source, target in zip(old, scratch, strict=True):
            if source.dim() == 4:  # slots beyond these hold nothing
                source, target = source[:, :, :filled], target[:, :, :filled]
            torch.index_select(source, 0, rows, out=target)
        self._set_by_row(scratch)
        if len(self.prompt) == len(rows):  # a copy each: moved, as the paper's is
            self._select_prompts(rows)
        return old

    def select_rows(self, prompts: Tensor, rows: Tensor, timeline: Timeline) -> None:
        """Keep these prompt copies and rows, in this order."""
        self._select_prompts(prompts)
        self._set_by_row(part.index_select(0, rows) for part in self.by_row())
        self.timeline = timeline

    def copy(self, rows: Tensor | None = None, capacity: int | None = None) -> KVCache:
        """An independent cache for ``rows`` of this one, with room for more tokens.

        Only for caches whose rows share no prompt, and not in 8 bits.
        """
        rows = self.timeline.rows if rows is None else rows
        timeline = self.timeline.select_rows(rows, rows)
        timeline.capacity = capacity or timeline.capacity
        prompt = self.prompt.index_select(0, rows)
        new = KVCache(self.layout, prompt, timeline, self.options)
        filled = timeline.filled
        new.suffix[:, :, :filled] = self.suffix[:, :, :filled].index_select(0, rows)
        return new

    def _read(self, numbers: Tensor, scale: Tensor | None) -> Tensor:
        if scale is None or self.options.dtype is None:
            return numbers
        return restore(numbers, scale, self.options.dtype, self.dtype)

    def _put(self, rows: Tensor, slots: Tensor, entries: Tensor) -> None:
        """Write entries ``(n, G, w)``, one at each slot of each row."""
        if self.suffix_scale is None or self.options.dtype is None:
            self.suffix[rows, :, slots] = entries
            return
        numbers, scale = quantise(entries, self.options.dtype)
        self.suffix[rows, :, slots] = numbers
        self.suffix_scale[rows, :, slots] = scale

    def _set_by_row(self, parts: Iterable[Tensor]) -> None:
        self.suffix, *others = parts
        if self.suffix_scale is not None:
            self.suffix_scale, *others = others
        if self.running is not None:
            (self.running,) = others

    def _select_prompts(self, index: Tensor) -> None:
        self.prompt = self.prompt.index_select(0, index)
        if self.prompt_scale is not None:
            self.prompt_scale = self.prompt_scale.index_select(0, index)

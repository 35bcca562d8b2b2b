"""The KV cache: one copy of a prompt an utterance, one suffix row a hypothesis.

An *entry* is what attention keeps of a chunk of ``stride`` tokens: MTLA's merged
latent and rotary key, or at stride 1 a token's latent (MLA) or keys and values (MHA,
GQA, MQA). Lengths in tokens are called ``seen``; lengths in entries ``entries`` or
``slots``.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``G`` entry heads,
``P`` prompt slots, ``S`` suffix slots, ``L`` new tokens, ``w`` entry width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.attention.backend import choose_backend
from espnet_mtla.attention.timeline import NewTokens, Timeline


@dataclass(frozen=True)
class EntryLayout:
    """What one entry holds: ``heads`` times ``width`` numbers.

    Keys are the first ``key_width`` of them; values are ``value_width`` numbers from
    ``value_start`` on. A latent entry is its own value, so there the two overlap.
    """

    heads: int
    width: int
    key_width: int
    value_start: int
    value_width: int
    stride: int = 1

    def keys(self, entries: Tensor) -> Tensor:
        """``(..., w) -> (..., key_width)``, a view."""
        return entries[..., : self.key_width]

    def values(self, entries: Tensor) -> Tensor:
        """``(..., w) -> (..., value_width)``, a view."""
        return entries[..., self.value_start : self.value_start + self.value_width]

    def slots(self, tokens: int) -> int:
        """Entries that ``tokens`` tokens take: one a begun chunk."""
        return -(-tokens // self.stride)

    def nbytes(self, entries: int, itemsize: int) -> int:
        """Bytes of ``entries`` entries."""
        return entries * self.heads * self.width * itemsize

    def cache_bytes(
        self, prompt: int, tokens: int, beam: int, share_prompt: bool, itemsize: int
    ) -> int:
        """Bytes filled by one utterance of ``prompt`` and ``tokens`` tokens a row.

        A prompt's open chunk is a row's own, since its hypotheses go on to fill it.
        """
        whole = prompt // self.stride
        suffix = self.slots(prompt + tokens) - whole
        copies = 1 if share_prompt else beam
        return self.nbytes(copies * whole + beam * suffix, itemsize)


@dataclass(frozen=True)
class CacheOptions:
    """How a cache is kept, whatever it holds.

    ``backend``: who computes attention over it, see :mod:`.backend`.
    """

    backend: str = "auto"


PLAIN = CacheOptions()


class KVCache:
    """One layer's cache, allocated once and written in place.

    ``prompt (B, G, P, w)`` holds the prompt's finished chunks. ``suffix (N, G, S, w)``
    starts with the prompt's open chunk, if any, and grows with the tokens; each row
    owns its own, so that merging a token into an open chunk never reaches a sibling.
    What stands in a slot that nothing was written to is never used.

    ``timeline`` says which slots these are. The layers of a decoder share one; then the
    decoder moves it, and the caches by :meth:`move` and :meth:`take` alone.
    """

    def __init__(
        self,
        layout: EntryLayout,
        prompt: Tensor,
        timeline: Timeline,
        options: CacheOptions = PLAIN,
    ) -> None:
        self.layout = self.prompt_layout = layout
        self.options = options
        self.backend = choose_backend(
            options.backend, layout, prompt.dtype, prompt.device
        )
        self.prompt, self.timeline = prompt, timeline
        rows = len(timeline.seen)
        self.suffix = prompt.new_zeros(rows, layout.heads, timeline.slots, layout.width)

    @classmethod
    def empty(
        cls,
        layout: EntryLayout,
        rows: int,
        capacity: int,
        like: Tensor,
        options: CacheOptions = PLAIN,
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
        options: CacheOptions = PLAIN,
    ) -> KVCache:
        """Keep a prompt's finished chunks; its open one becomes the suffix's first.

        Args:
            entries: running entries of every prompt token, ``(B, G, T, w)``.
            lengths: prompt tokens of each row, ``(B,)``; those behind are padding.
            capacity: room for so many tokens a row after the prompt.
        """
        s, timeline = layout.stride, Timeline(lengths, layout.stride, capacity)
        finished = entries[:, :, s - 1 :: s].contiguous()
        cache = cls(layout, finished, timeline, options)
        if s > 1 and entries.size(2) > 0:
            # Where no chunk is open the first token will write over this unread.
            last = (lengths - 1).clamp(min=0)
            cache.suffix[:, :, 0] = entries[timeline.rows, :, last]
        return cache

    @property
    def beam(self) -> int:
        """Rows that share one copy of a prompt."""
        return self.suffix.size(0) // self.prompt.size(0)

    @property
    def seen(self) -> Tensor:
        """Tokens of each row, those of the prompt included, ``(N,)``."""
        return self.timeline.seen

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.prompt.nbytes + self.suffix.nbytes

    @property
    def used_nbytes(self) -> int:
        """Bytes of the entries that hold something."""
        time = self.timeline
        in_prompt = int(time.whole.sum())
        in_suffix = int((-(-time.seen // self.layout.stride) - time.base).sum())
        itemsize = self.suffix.itemsize
        return self.prompt_layout.nbytes(in_prompt, itemsize) + self.layout.nbytes(
            in_suffix, itemsize
        )

    def fork(self, beam: int, share_prompt: bool = True) -> None:
        """Turn each row into ``beam`` rows beside each other."""
        self.timeline.fork(beam, share_prompt)
        self.spread(beam, share_prompt)

    def spread(self, beam: int, share_prompt: bool = True) -> None:
        """:meth:`fork` without the timeline."""
        old, filled = self.suffix, self.timeline.filled
        self.suffix = old.new_zeros(len(old) * beam, *old.shape[1:])
        self.suffix[:, :, :filled] = old[:, :, :filled].repeat_interleave(beam, 0)
        if not share_prompt:
            self.prompt = self.prompt.repeat_interleave(beam, dim=0)

    def open_entry(self, new: NewTokens) -> Tensor:
        """The entry that the first new token goes on with ``(N, G, w)``.

        It means something where ``new.is_open``.
        """
        return self.suffix[self.timeline.rows, :, new.slot[:, 0]]

    def write(
        self, entries: Tensor, new: NewTokens, lengths: Tensor | None = None
    ) -> None:
        """Write the running entries ``(N, G, L, w)`` of L new tokens a row.

        ``lengths (N,)`` says how many of them are real, where rows differ. A token of
        an open chunk replaces the chunk's entry, since its running sum includes it.
        """
        tokens, s = entries.size(2), self.layout.stride
        if tokens == 1 and lengths is None:
            self.suffix[self.timeline.rows, :, new.slot[:, 0]] = entries[:, :, 0]
            return
        step = torch.arange(tokens, device=entries.device)
        count = torch.full_like(new.start, tokens) if lengths is None else lengths
        ends = ((new.index + 1) % s == 0) | (step == count.unsqueeze(1) - 1)
        row, column = (ends & (step < count.unsqueeze(1))).nonzero(as_tuple=True)
        self.suffix[row, :, new.slot[row, column]] = entries[row, :, column]

    def suffix_entries(self) -> Tensor:
        """The suffix as far as any row can have come, ``(N, G, S', w)``."""
        return self.suffix[:, :, : self.timeline.filled]

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` was, one of the same utterance's."""
        self.move(rows, torch.empty_like(self.suffix))
        self.timeline.reorder(rows)

    @torch.no_grad()
    def move(self, rows: Tensor, spare: Tensor) -> Tensor:
        """:meth:`reorder` without the timeline, by way of a spare suffix.

        No gradient goes through it.

        Returns:
            What is spare from now on.
        """
        filled, old = self.timeline.filled, self.suffix
        torch.index_select(old[:, :, :filled], 0, rows, out=spare[:, :, :filled])
        self.suffix = spare
        if len(self.prompt) == len(old):  # a copy each: moved, as is the paper's
            self.prompt = self.prompt.index_select(0, rows)
        return old

    def take(self, prompts: Tensor, rows: Tensor, timeline: Timeline) -> None:
        """Keep these prompt copies and rows, in this order."""
        self.prompt = self.prompt.index_select(0, prompts)
        self.suffix = self.suffix.index_select(0, rows)
        self.timeline = timeline

    def copy(self, rows: Tensor | None = None, capacity: int | None = None) -> KVCache:
        """An independent cache for ``rows`` of this one, with room for more tokens.

        Only for caches whose rows share no prompt.
        """
        rows = self.timeline.rows if rows is None else rows
        timeline = self.timeline.take(rows, rows)
        timeline.capacity = capacity or timeline.capacity
        prompt = self.prompt.index_select(0, rows)
        new = KVCache(self.layout, prompt, timeline, self.options)
        filled = timeline.filled
        new.suffix[:, :, :filled] = self.suffix[:, :, :filled].index_select(0, rows)
        return new

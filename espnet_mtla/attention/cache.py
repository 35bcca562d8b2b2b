"""The KV cache: one copy of a prompt an utterance, one suffix row a hypothesis.

An *entry* is what attention keeps of a chunk of ``stride`` tokens: MTLA's merged
latent and rotary key, or at stride 1 a token's latent (MLA) or keys and values (MHA,
GQA, MQA). Lengths in tokens are called ``seen``; lengths in entries ``entries`` or
``slots``.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``G`` entry heads,
``P`` prompt slots, ``S`` suffix slots, ``w`` entry width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.attention.backend import choose_backend


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


class KVCache:
    """One layer's cache, allocated once and written in place.

    ``prompt (B, G, P, w)`` holds the prompt's finished chunks. ``suffix (N, G, S, w)``
    starts with the prompt's open chunk, if any, and grows with the tokens; each row
    owns its own, so that merging a token into an open chunk never reaches a sibling.

    Attributes:
        whole: finished chunks of each prompt, ``(B,)``.
        seen: tokens of each row, those of the prompt included, ``(N,)``.
        appended: tokens of a row after the prompt, counted on the host.
        capacity: how many of them there is room for.
    """

    def __init__(
        self,
        layout: EntryLayout,
        prompt: Tensor,
        prompt_tokens: Tensor,
        capacity: int,
        backend: str = "auto",
    ) -> None:
        self.layout = layout
        self.backend = choose_backend(backend, layout, prompt.dtype, prompt.device)
        self.prompt = prompt
        self.whole = prompt_tokens // layout.stride
        self.seen = prompt_tokens.clone()
        self.appended = 0
        self.capacity = capacity
        slots = layout.slots(layout.stride - 1 + capacity)
        shape = (prompt.size(0), layout.heads, slots, layout.width)
        self.suffix = prompt.new_zeros(shape)
        self._private_prompt = False

    @classmethod
    def empty(
        cls, layout: EntryLayout, rows: int, capacity: int, like: Tensor
    ) -> KVCache:
        """No prompt part; dtype and device are those of ``like``."""
        prompt = like.new_zeros(rows, layout.heads, 0, layout.width)
        nothing = torch.zeros(rows, dtype=torch.long, device=like.device)
        return cls(layout, prompt, nothing, capacity)

    @classmethod
    def from_prompt(
        cls, layout: EntryLayout, entries: Tensor, lengths: Tensor, capacity: int
    ) -> KVCache:
        """Keep a prompt's finished chunks; its open one becomes the suffix's first.

        Args:
            entries: running entries of every prompt token, ``(B, G, T, w)``.
            lengths: prompt tokens of each row, ``(B,)``; those behind are padding.
            capacity: room for so many tokens a row after the prompt.
        """
        s = layout.stride
        cache = cls(layout, entries[:, :, s - 1 :: s].contiguous(), lengths, capacity)
        if s > 1 and entries.size(2) > 0:
            rows = torch.arange(entries.size(0), device=entries.device)
            # Where no chunk is open the first token will write over this unread.
            cache.suffix[:, :, 0] = entries[rows, :, (lengths - 1).clamp(min=0)]
        return cache

    @property
    def beam(self) -> int:
        """Rows that share one copy of a prompt."""
        return self.suffix.size(0) // self.prompt.size(0)

    @property
    def base(self) -> Tensor:
        """Chunk index of each row's first suffix slot, ``(N,)``."""
        return self.whole.repeat_interleave(self.beam)

    @property
    def filled(self) -> int:
        """Suffix slots that the fullest row can be using."""
        return self.layout.slots(self.layout.stride - 1 + self.appended)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.prompt.nbytes + self.suffix.nbytes

    @property
    def used_nbytes(self) -> int:
        """Bytes of the entries that hold something."""
        in_prompt = int(self.whole.sum())
        chunks = -(-self.seen // self.layout.stride)
        in_suffix = int((chunks - self.base).sum())
        return self.layout.nbytes(in_prompt + in_suffix, self.suffix.itemsize)

    def fork(self, beam: int, share_prompt: bool = True) -> None:
        """Turn each row into ``beam`` rows beside each other."""
        self.suffix = self.suffix.repeat_interleave(beam, dim=0)
        self.seen = self.seen.repeat_interleave(beam)
        if not share_prompt:
            self.prompt = self.prompt.repeat_interleave(beam, dim=0)
            self.whole = self.whole.repeat_interleave(beam)
            self._private_prompt = True

    def open_entry(self) -> Tensor:
        """Each row's newest suffix entry ``(N, G, w)``; read it where one is open."""
        newest = (self.seen - 1) // self.layout.stride - self.base
        rows = torch.arange(newest.size(0), device=newest.device)
        return self.suffix[rows, :, newest.clamp(min=0)]

    def append(self, entries: Tensor, lengths: Tensor | None = None) -> None:
        """Write the running entries ``(N, G, L, w)`` of L new tokens a row.

        ``lengths (N,)`` says how many of them are real, where rows differ. A token of
        an open chunk replaces the chunk's entry, since its running sum includes it.

        Raises:
            IndexError: more tokens than the capacity that was asked for.
        """
        new, s = entries.size(2), self.layout.stride
        if self.appended + new > self.capacity:
            raise IndexError(
                f"the cache has room for {self.capacity} tokens after the prompt, "
                f"{self.appended + new} are needed; ask for more when it is made"
            )
        self.appended += new
        if new == 1 and lengths is None:
            rows = torch.arange(entries.size(0), device=entries.device)
            self.suffix[rows, :, self.seen // s - self.base] = entries[:, :, 0]
            self.seen = self.seen + 1
            return
        count = torch.full_like(self.seen, new) if lengths is None else lengths
        step = torch.arange(new, device=entries.device)
        token = self.seen.unsqueeze(1) + step  # (N, L)
        ends = ((token + 1) % s == 0) | (step == count.unsqueeze(1) - 1)
        row, column = (ends & (step < count.unsqueeze(1))).nonzero(as_tuple=True)
        slot = token[row, column] // s - self.base[row]
        self.suffix[row, :, slot] = entries[row, :, column]
        self.seen = self.seen + count

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` was, one of the same utterance's."""
        used = self.suffix[:, :, : self.filled]
        used.copy_(used.index_select(0, rows))
        self.seen = self.seen.index_select(0, rows)
        if self._private_prompt:
            self.prompt = self.prompt.index_select(0, rows)
            self.whole = self.whole.index_select(0, rows)

    def select(self, utterances: Tensor, beam: int) -> None:
        """Keep the ``(B',)`` utterances, each with its ``beam`` rows, in this order."""
        offsets = torch.arange(beam, device=utterances.device)
        rows = (utterances.unsqueeze(1) * beam + offsets).flatten()
        kept = rows if self._private_prompt else utterances
        self.prompt = self.prompt.index_select(0, kept)
        self.whole = self.whole.index_select(0, kept)
        self.suffix = self.suffix.index_select(0, rows)
        self.seen = self.seen.index_select(0, rows)

    def copy(self, rows: Tensor | None = None, capacity: int | None = None) -> KVCache:
        """An independent cache for ``rows`` of this one, with room for more tokens.

        Only for caches whose rows share no prompt.
        """
        rows = (
            torch.arange(len(self.seen), device=self.seen.device)
            if rows is None
            else rows
        )
        new = KVCache(
            self.layout,
            self.prompt.index_select(0, rows),
            self.whole.index_select(0, rows) * self.layout.stride,
            self.capacity if capacity is None else capacity,
        )
        new.seen, new.appended = self.seen.index_select(0, rows), self.appended
        used = self.suffix[:, :, : self.filled]
        new.suffix[:, :, : self.filled] = used.index_select(0, rows)
        new._private_prompt = self._private_prompt
        return new

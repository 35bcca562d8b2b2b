"""How far each row has come: counted once, for the caches of all layers.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``L`` new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.settings.checks import whole_number


class Timeline:
    """Tokens and chunks of rows that started from ``prompt_tokens (B,)``.

    Attributes:
        whole: finished chunks of each prompt copy, ``(B,)``; ``(N,)`` where each row
            has a copy.
        base: chunk index of each row's first suffix slot, ``(N,)``.
        seen: tokens of each row, those of the prompt included, ``(N,)``.
        rows: 0 .. N - 1, for indexing.
        appended: tokens of a row after the prompt, counted on the host.
        capacity: how many of them there is room for.
        all_slots: whether every suffix slot counts as filled, so that shapes stay the
            same from step to step; what was not written is hidden all the same.
    """

    def __init__(self, prompt_tokens: Tensor, stride: int, capacity: int) -> None:
        self.stride = stride
        self.capacity = whole_number(capacity, "capacity", least=0)
        self.prompt_chunks = prompt_tokens // stride
        self.first_suffix_chunk = self.prompt_chunks
        self.num_tokens = prompt_tokens.clone()
        self.rows = torch.arange(len(prompt_tokens), device=prompt_tokens.device)
        self.appended, self.all_slots = 0, False

    @property
    def filled(self) -> int:
        """Suffix slots that the fullest row can be using."""
        if self.all_slots:
            return self.slots
        return -(-(self.stride - 1 + self.appended) // self.stride)

    @property
    def slots(self) -> int:
        """Suffix slots that the capacity needs: the prompt may leave a chunk open."""
        return -(-(self.stride - 1 + self.capacity) // self.stride)

    def fork(self, beam: int, share_prompt: bool) -> None:
        """Turn each row into ``beam`` rows beside each other."""
        self.first_suffix_chunk = self.first_suffix_chunk.repeat_interleave(beam)
        self.num_tokens = self.num_tokens.repeat_interleave(beam)
        self.rows = torch.arange(len(self.num_tokens), device=self.num_tokens.device)
        if not share_prompt:
            self.prompt_chunks = self.first_suffix_chunk

    def reserve(self, tokens: int) -> None:
        """Take room for ``tokens`` more in every row.

        Raises:
            IndexError: more tokens than the capacity that was asked for.
        """
        if self.appended + tokens > self.capacity:
            raise IndexError(
                f"the cache has room for {self.capacity} tokens after the prompt, "
                f"{self.appended + tokens} are needed; ask for more when it is made"
            )
        self.appended += tokens

    def advance(self, tokens: int | Tensor) -> None:
        """Count new tokens, of each row ``(N,)`` where they differ."""
        self.num_tokens += tokens

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` was, one of the same utterance's."""
        self.num_tokens.copy_(self.num_tokens.index_select(0, rows))

    def select_rows(self, prompts: Tensor, rows: Tensor) -> Timeline:
        """A timeline of some prompt copies and some rows of this one."""
        new = object.__new__(Timeline)
        new.stride, new.capacity = self.stride, self.capacity
        new.prompt_chunks, new.first_suffix_chunk = (
            self.prompt_chunks[prompts],
            self.first_suffix_chunk[rows],
        )
        new.num_tokens, new.appended = self.num_tokens[rows], self.appended
        new.all_slots = self.all_slots
        new.rows = torch.arange(len(rows), device=rows.device)
        return new


@dataclass(frozen=True)
class TokenPlacement:
    """Where L new tokens a row stand. All layers take this, so it is computed once.

    Attributes:
        start: tokens of the row before them, ``(N,)``.
        index: of each in its row, ``(N, L)``.
        slot: suffix slot of each one's chunk, ``(N, L)``.
        angles: rotary angles, ``(N or 1, L, .)``.
        is_open: whether the first goes on with a chunk, ``(N, 1)``.
        chunk_encodings: encoding of each chunk index ``(N, L, r)``; None: no merging.
    """

    start: Tensor
    index: Tensor
    slot: Tensor
    angles: Tensor
    is_open: Tensor
    chunk_encodings: Tensor | None

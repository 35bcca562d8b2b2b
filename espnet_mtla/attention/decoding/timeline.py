"""The timeline: how many tokens each row holds, shared by the caches of all layers.

Index arithmetic. With stride s, token i belongs to chunk ``i // s`` and every chunk has
one cache entry. The prompt part of a cache holds the finished chunks of a prompt of p
tokens, ``p // s`` of them. All later chunks, beginning with the one that the prompt may
have left open, are in the row's suffix: chunk c in slot ``c - p // s``. If the first
chunk lacks ``a`` tokens (``offset``), i and p are counted as ``i + a`` and ``p + a``.

Letters: ``B`` utterances, ``K`` hypotheses of each, ``N = B K`` rows, ``L`` new tokens
of a row, ``r`` width of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.rows import put_rows
from espnet_mtla.attention.decoding.window import WindowPlacement
from espnet_mtla.settings.checks import whole_number


class Timeline:
    """Token counts of rows that started from ``prompt_tokens (B,)`` tokens.

    >>> timeline = Timeline(torch.tensor([5, 8]), stride=2, capacity=3)
    >>> timeline.prompt_chunks.tolist(), timeline.slots, timeline.filled
    ([2, 4], 2, 1)
    >>> timeline.reserve(1)
    >>> timeline.advance(1)
    >>> timeline.num_tokens.tolist(), timeline.filled
    ([6, 9], 1)

    Attributes:
        stride: tokens of a chunk.
        capacity: tokens of a row that there is room for after the prompt.
        prompt_chunks: finished chunks of each prompt copy: ``(B,)`` for shared prompts,
            ``(N,)`` if each row has a copy.
        first_suffix_chunk: index of the chunk in suffix slot 0 of each row, ``(N,)``.
        prompt_tokens: tokens of each prompt copy, of the shape of ``prompt_chunks``.
        first_token: index of the first token after the prompt of each row, ``(N,)``.
        num_tokens: tokens of each row, those of the prompt included, ``(N,)``.
        rows: 0 to N - 1, for indexing.
        appended: tokens reserved after the prompt, counted on the host.
        all_slots: let ``filled`` be ``slots`` from the start, so that shapes do not
            change from step to step. Unwritten slots stay hidden.
        uneven: rows of one utterance may have different numbers of tokens.
        joined: utterances may have different numbers of tokens after their prompts.
        window_slack: slots of a raw window beyond those that it needs, so that its
            tokens are still there after the newest ones have been removed.
    """

    def __init__(
        self, prompt_tokens: Tensor, stride: int, capacity: int, offset: int = 0
    ) -> None:
        self.stride, self.offset = stride, offset
        self.capacity = whole_number(capacity, "capacity", least=0)
        self.prompt_tokens = self.first_token = prompt_tokens
        counted = prompt_tokens + offset if offset else prompt_tokens
        self.prompt_chunks = counted // stride
        self.first_suffix_chunk = self.prompt_chunks
        self.num_tokens = prompt_tokens.clone()
        self.rows = torch.arange(len(prompt_tokens), device=prompt_tokens.device)
        self.appended, self.all_slots, self.uneven = 0, False, False
        self.joined, self.window_slack = False, 0

    @property
    def filled(self) -> int:
        """Suffix slots that may be in use in any row, known without asking a GPU.

        A prompt leaves up to ``stride - 1`` tokens in its open chunk. Together with the
        appended tokens they begin this many chunks at most.
        """
        if self.all_slots:
            return self.slots
        return -(-(self.stride - 1 + self.appended) // self.stride)

    @property
    def slots(self) -> int:
        """Suffix slots allocated: those in use when the capacity is used up."""
        return -(-(self.stride - 1 + self.capacity) // self.stride)

    @property
    def suffix_chunks(self) -> Tensor:
        """Suffix slots in use by each row, ``(N,)``."""
        begun = -(-(self.num_tokens + self.offset) // self.stride)
        # A row without tokens has begun no chunk, even if its first one is shorter.
        return begun.masked_fill(self.num_tokens == 0, 0) - self.first_suffix_chunk

    @property
    def most_appended(self) -> int:
        """Return a number that no row's tokens after the prompt exceed."""
        return self.capacity if self.all_slots else self.appended

    @property
    def least_appended(self) -> int:
        """Return a number of tokens after the prompt that every row has at least."""
        differs = self.all_slots or self.uneven or self.joined
        return 0 if differs else self.appended

    def fork(self, beam: int, share_prompt: bool) -> None:
        """Repeat each row ``beam`` times, the copies beside each other."""
        self.first_suffix_chunk = self.first_suffix_chunk.repeat_interleave(beam)
        self.first_token = self.first_token.repeat_interleave(beam)
        self.num_tokens = self.num_tokens.repeat_interleave(beam)
        self.rows = torch.arange(len(self.num_tokens), device=self.num_tokens.device)
        if not share_prompt:
            self.prompt_chunks = self.first_suffix_chunk
            self.prompt_tokens = self.first_token

    def reserve(self, tokens: int) -> None:
        """Reserve room for ``tokens`` more tokens in every row.

        Raises:
            IndexError: the capacity is too small.
        """
        if self.appended + tokens > self.capacity:
            raise IndexError(
                f"the cache has room for {self.capacity} tokens after the prompt, "
                f"{self.appended + tokens} are needed; create it with more capacity"
            )
        self.appended += tokens

    def advance(self, tokens: int | Tensor) -> None:
        """Add new tokens to the counts; ``(N,)`` if rows differ."""
        self.uneven = self.uneven or isinstance(tokens, Tensor)
        self.num_tokens += tokens

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue row ``rows[i]``, which is of the same utterance."""
        self.num_tokens.copy_(self.num_tokens.index_select(0, rows))

    def join(self, other: Timeline, prompts: Tensor, rows: Tensor) -> None:
        """Put the rows of another timeline in the place of rows, or behind the last.

        Args:
            other: of the same stride.
            prompts: where each of its prompt copies goes.
            rows: where each of its rows goes, ``(N',)``.
        """
        for name in ("prompt_chunks", "prompt_tokens"):
            old, new = getattr(self, name), getattr(other, name)
            setattr(self, name, put_rows(old, new, prompts))
        for name in ("first_suffix_chunk", "first_token", "num_tokens"):
            old, new = getattr(self, name), getattr(other, name)
            setattr(self, name, put_rows(old, new, rows))
        self.rows = torch.arange(len(self.num_tokens), device=rows.device)
        self.capacity = max(self.capacity, other.capacity)
        self.appended, self.joined = max(self.appended, other.appended), True
        self.uneven = self.uneven or other.uneven

    def rewind(self, rows: Tensor, appended: int) -> None:
        """Set rows back to the ends of their prompts.

        Args:
            rows: ``(N',)``.
            appended: most tokens that any other row has after its prompt.
        """
        self.num_tokens[rows] = self.first_token[rows]
        self.appended = appended

    def select_rows(self, prompts: Tensor, rows: Tensor) -> Timeline:
        """Return a timeline of some prompt copies and some rows of this one."""
        new = object.__new__(Timeline)
        new.stride, new.offset, new.capacity = self.stride, self.offset, self.capacity
        new.prompt_chunks = self.prompt_chunks[prompts]
        new.prompt_tokens = self.prompt_tokens[prompts]
        new.first_suffix_chunk = self.first_suffix_chunk[rows]
        new.first_token = self.first_token[rows]
        new.num_tokens, new.appended = self.num_tokens[rows], self.appended
        new.all_slots, new.uneven = self.all_slots, self.uneven
        new.joined, new.window_slack = self.joined, self.window_slack
        new.rows = torch.arange(len(rows), device=rows.device)
        return new


@dataclass(frozen=True)
class TokenPlacement:
    """Where L new tokens of each row stand; computed once a step for all layers.

    Attributes:
        start: tokens of the row before them, ``(N,)``.
        index: index of each token in its row, ``(N, L)``.
        slot: suffix slot of each token's chunk, ``(N, L)``.
        angles: rotary angles, ``(N or 1, L, rope_dim / 2)``.
        is_open: true if the first token continues a chunk, ``(N, 1)``.
        chunk_encodings: encoding of each token's chunk index, ``(N, L, r)``; None: the
            attention type needs none.
        window: where they stand in the raw window; None: there is none.
    """

    start: Tensor
    index: Tensor
    slot: Tensor
    angles: Tensor
    is_open: Tensor
    chunk_encodings: Tensor | None
    window: WindowPlacement | None = None

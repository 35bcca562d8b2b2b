"""The two prompt modes: a fixed prompt, and one that each layer recomputes.

Rows are packed: the tokens of a row follow its valid prompt frames at once, and padding
comes last. The causal mask then hides padding, and chunks are counted from the
utterance's first frame.

Letters: ``B`` utterances, ``P`` prompt frames, ``U`` tokens, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from espnet_mtla.attention import KVCache, QueryTokens
from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE, CacheOptions
from espnet_mtla.decoder.layer import DecoderLayer

TrainedLayer = Callable[[Tensor, QueryTokens], Tensor]
"""A layer as training calls it: from packed rows and query tokens to ``(B, U, D)``."""


@dataclass(frozen=True)
class PromptPacking:
    """Packs the prompts and tokens of a batch into rows [prompt; text; padding].

    Attributes:
        lengths: valid prompt frames of each row, ``(B,)``.
        frames: P, padding included.
        tokens: U.
    """

    lengths: Tensor
    frames: int
    tokens: int

    @property
    def query_index(self) -> Tensor:
        """Index of each token in its packed row, ``(B, U)``."""
        step = torch.arange(self.tokens, device=self.lengths.device)
        return self.lengths.unsqueeze(1) + step

    def rows(self, prompt: Tensor, text: Tensor) -> Tensor:
        """Pack prompt ``(B, P, D)`` and text ``(B, U, D)`` into rows ``(B, P + U, D)``.

        >>> packing = PromptPacking(torch.tensor([1, 2]), frames=2, tokens=1)
        >>> prompt = torch.tensor([[[1.0], [torch.nan]], [[2.0], [3.0]]])
        >>> packing.rows(prompt, torch.full((2, 1, 1), 9.0)).squeeze(2)
        tensor([[1., 9., 0.],
                [2., 3., 9.]])
        """
        row = prompt.new_zeros(len(prompt), self.frames + self.tokens, prompt.size(2))
        valid = torch.arange(self.frames, device=prompt.device) < self.lengths[:, None]
        # Padding may hold NaN, and 0 times NaN is NaN: set it to 0.
        row[:, : self.frames] = prompt.masked_fill(~valid.unsqueeze(-1), 0.0)
        index = self.query_index.unsqueeze(-1).expand(-1, -1, prompt.size(2))
        return row.scatter(1, index, text.to(row.dtype))


class PromptMode(Protocol):
    """How layers process a prompt, in training and in decoding."""

    def run(
        self,
        layers: Iterable[TrainedLayer],
        prompt: Tensor,
        lengths: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Return the text ``(B, U, D)`` after all layers, for training."""

    def prefill(
        self,
        layers: Iterable[DecoderLayer],
        prompt: Tensor,
        lengths: Tensor,
        capacity: int,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> list[KVCache]:
        """Return each layer's cache of the prompt."""


class FixedPrompt:
    """Keys of each layer are [prompt; text]; only the text is queried and updated."""

    @staticmethod
    def run(
        layers: Iterable[TrainedLayer], prompt: Tensor, lengths: Tensor, text: Tensor
    ) -> Tensor:
        """Return the text ``(B, U, D)`` after all layers, for training."""
        packing = PromptPacking(lengths, prompt.size(1), text.size(1))
        for layer in layers:
            row = packing.rows(prompt, text)
            text = layer(row, QueryTokens(text, packing.query_index))
        return text

    @staticmethod
    def prefill(
        layers: Iterable[DecoderLayer],
        prompt: Tensor,
        lengths: Tensor,
        capacity: int,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> list[KVCache]:
        """Return each layer's cache of the same prompt."""
        caches = []
        for layer in layers:
            _, cache = layer.prefill(prompt, lengths, capacity, False, options)
            caches.append(cache)
        return caches


class RecomputedPrompt:
    """Layers update the prompt as they update tokens, as in a language model.

    The last layer computes keys and values of the prompt, but does not update it, since
    only the text's output is used.
    """

    @staticmethod
    def run(
        layers: Iterable[TrainedLayer], prompt: Tensor, lengths: Tensor, text: Tensor
    ) -> Tensor:
        """Return the text ``(B, U, D)`` after all layers, for training."""
        packing = PromptPacking(lengths, prompt.size(1), text.size(1))
        row = packing.rows(prompt, text)
        *below, last = layers
        for layer in below:
            row = layer(row, QueryTokens(row))
        text = QueryTokens(text, packing.query_index).select(row)
        return last(row, QueryTokens(text, packing.query_index))

    @staticmethod
    def prefill(
        layers: Iterable[DecoderLayer],
        prompt: Tensor,
        lengths: Tensor,
        capacity: int,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> list[KVCache]:
        """Return each layer's cache of the prompt as that layer receives it."""
        caches = []
        *below, last = layers
        for layer in below:
            prompt, cache = layer.prefill(prompt, lengths, capacity, True, options)
            caches.append(cache)
        return [*caches, last.prefill(prompt, lengths, capacity, False, options)[1]]


PROMPTS: dict[str, PromptMode] = {"fixed": FixedPrompt, "recompute": RecomputedPrompt}

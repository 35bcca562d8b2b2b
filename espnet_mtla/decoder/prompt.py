"""The two prompt modes, which differ in keys, cost and what runs through the layers.

Rows are packed: a row's valid prompt frames are followed at once by its tokens, and
padding comes last. So causality alone keeps padding out, and a chunk counts from the
utterance's own first frame.
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
"""A layer as training calls it, or what stands for one."""


@dataclass(frozen=True)
class PromptPacking:
    """Where each prompt frame and each token of a batch stands in its packed row."""

    lengths: Tensor  # (B,) valid prompt frames
    frames: int  # P, padding included
    tokens: int  # U

    @property
    def query_index(self) -> Tensor:
        """Index of each token in its row, ``(B, U)``."""
        step = torch.arange(self.tokens, device=self.lengths.device)
        return self.lengths.unsqueeze(1) + step

    def rows(self, prompt: Tensor, text: Tensor) -> Tensor:
        """``(B, P, D)`` and ``(B, U, D)`` to packed rows ``(B, P + U, D)``."""
        row = prompt.new_zeros(len(prompt), self.frames + self.tokens, prompt.size(2))
        valid = torch.arange(self.frames, device=prompt.device) < self.lengths[:, None]
        # Selected, not multiplied: whatever stands in the padding, NaN too, is gone.
        row[:, : self.frames] = prompt.masked_fill(~valid.unsqueeze(-1), 0.0)
        index = self.query_index.unsqueeze(-1).expand(-1, -1, prompt.size(2))
        return row.scatter(1, index, text.to(row.dtype))


class PromptMode(Protocol):
    """How the layers see a prompt, in training and when it is cached."""

    def run(
        self,
        layers: Iterable[TrainedLayer],
        prompt: Tensor,
        lengths: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Training: the text ``(B, U, D)`` after all layers."""

    def prefill(
        self,
        layers: Iterable[DecoderLayer],
        prompt: Tensor,
        lengths: Tensor,
        capacity: int,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> list[KVCache]:
        """Each layer's cache of the prompt."""


class FixedPrompt:
    """Keys of each layer are [prompt; text]; only the text asks and changes."""

    @staticmethod
    def run(
        layers: Iterable[TrainedLayer], prompt: Tensor, lengths: Tensor, text: Tensor
    ) -> Tensor:
        """Training: the text ``(B, U, D)`` after all layers."""
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
        """Each layer's cache of the same prompt."""
        given = (prompt, lengths, capacity, False, options)
        return [layer.prefill(*given)[1] for layer in layers]


class RecomputedPrompt:
    """The prompt runs through the layers as tokens do, as in a language model.

    The last layer makes of it what the text looks at, and no more: nobody reads on.
    """

    @staticmethod
    def run(
        layers: Iterable[TrainedLayer], prompt: Tensor, lengths: Tensor, text: Tensor
    ) -> Tensor:
        """Training: the text ``(B, U, D)`` after all layers."""
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
        """Each layer's cache of the prompt as it arrives there."""
        caches = []
        *below, last = layers
        for layer in below:
            prompt, cache = layer.prefill(prompt, lengths, capacity, True, options)
            caches.append(cache)
        return [*caches, last.prefill(prompt, lengths, capacity, False, options)[1]]


PROMPTS: dict[str, PromptMode] = {"fixed": FixedPrompt, "recompute": RecomputedPrompt}

"""One decoder-only layer: attention and feed-forward, each behind its norm."""

from __future__ import annotations

from torch import Tensor, nn

from espnet_mtla.attention import KVCache, QueryTokens, TokenPlacement, build_attention
from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE, CacheOptions
from espnet_mtla.decoder.config import DecoderConfig
from espnet_mtla.decoder.feed_forward import build_feed_forward, build_norm


class DecoderLayer(nn.Module):
    """Pre-norm block: called in training; ``prefill`` and ``step`` for decoding."""

    def __init__(self, config: DecoderConfig, index: int = 0) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = build_attention(
            config.attention,
            config.embed_dim,
            config.num_heads,
            config.dropout,
            config.attention_conf,
            index,
        )
        self.ffn_norm = build_norm(config)
        self.ffn = build_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, row: Tensor, query_tokens: QueryTokens) -> Tensor:
        """Return the query tokens after the layer, ``(B, U, D)``.

        Args:
            row: packed rows, ``(B, T, D)``, that the queries attend to.
            query_tokens: tokens that the layer updates.
        """
        normed = QueryTokens(
            self.attention_norm(query_tokens.x), query_tokens.query_index
        )
        attended = self.attention.attend_all(self.attention_norm(row), normed)
        return self.feed_forward(query_tokens.x + self.dropout(attended))

    def prefill(
        self,
        prompt: Tensor,
        lengths: Tensor,
        capacity: int,
        attend_prompt: bool,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> tuple[Tensor, KVCache]:
        """Cache prompts.

        Args:
            prompt: packed prompts, ``(B, P, D)``.
            lengths: valid frames of each, ``(B,)``.
            capacity: tokens of a row that the cache has room for after the prompt.
            attend_prompt: update the prompt as well.
            options: how the cache is stored.

        Returns:
            The prompt, updated or as it was, and its cache.
        """
        normed = self.attention_norm(prompt)
        attended, cache = self.attention.prefill(
            normed, lengths, capacity, attend_prompt, options
        )
        if attended is not None:
            prompt = self.feed_forward(prompt + self.dropout(attended))
        return prompt, cache

    def step(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> Tensor:
        """Append new tokens to the cache, and return them after the layer.

        Args:
            x: ``(N, L, D)``.
            cache: of this layer.
            placement: where the tokens stand in their rows.
        """
        attended = self.attention.step(self.attention_norm(x), cache, placement)
        return self.feed_forward(x + self.dropout(attended))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the second half of the layer, ``(..., D) -> (..., D)``."""
        return x + self.dropout(self.ffn(self.ffn_norm(x)))

"""MHA, GQA and MQA with rotary positions: one module, different numbers of key heads.

A cache entry holds the rotated key and the value of one token, for ``num_kv_heads``
heads. Each of them serves ``num_heads / num_kv_heads`` query heads.

Letters: ``B`` rows, ``T`` tokens, ``d`` width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from espnet_mtla.attention.config import MultiheadConfig
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.reference_api import ReferenceInterface
from espnet_mtla.attention.rope import rotate
from espnet_mtla.attention.training.attend import attend_heads


class MultiheadAttention(ReferenceInterface):
    """Causal attention over keys and values of ``num_kv_heads`` heads.

    Args:
        embed_dim: width D of the model.
        num_heads: query heads.
        settings: other fields of :class:`.MultiheadConfig`.
    """

    settings: MultiheadConfig

    def __init__(self, embed_dim: int, num_heads: int, **settings: Any) -> None:
        config = MultiheadConfig(embed_dim, num_heads, **settings)
        layout = EntryLayout(
            heads=config.num_kv_heads,
            width=2 * config.head_dim,
            key_width=config.head_dim,
            value_start=config.head_dim,
            value_width=config.head_dim,
        )
        super().__init__(
            config,
            layout,
            scale=config.head_dim**-0.5,
            rope_dim=config.head_dim,
            rope_base=config.rope_base,
            rope_frequencies=config.rope_frequencies,
        )
        width, query_width = config.embed_dim, config.num_heads * config.head_dim
        key_width = config.num_kv_heads * config.head_dim
        self.wq = nn.Linear(width, query_width, bias=config.bias)
        self.wk = nn.Linear(width, key_width, bias=config.bias)
        self.wv = nn.Linear(width, key_width, bias=config.bias)
        self.wo = nn.Linear(query_width, width, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.qk_norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.qk_norm_eps)

    def queries(self, x: Tensor, angles: Tensor) -> Tensor:
        q = self._heads(self.wq(x))
        if self.settings.qk_norm:
            q = self.q_norm(q)
        return rotate(q, angles.unsqueeze(1))

    def entries(
        self,
        x: Tensor,
        angles: Tensor,
        placement: TokenPlacement | None = None,
        open_entry: Tensor | None = None,
    ) -> Tensor:
        del placement, open_entry  # entries of single tokens: nothing is merged
        k = self._heads(self.wk(x))
        if self.settings.qk_norm:
            k = self.k_norm(k)
        k = rotate(k, angles.unsqueeze(1))
        return torch.cat((k, self._heads(self.wv(x))), dim=-1)

    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        k, v = entries.split(self.settings.head_dim, dim=-1)
        return attend_heads(q, k, v, query_index, self.scale, dropout)

    def project_out(self, out: Tensor) -> Tensor:
        return self.wo(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """Split ``(B, T, heads * d)`` into heads, ``(B, heads, T, d)``."""
        return x.unflatten(-1, (-1, self.settings.head_dim)).transpose(1, 2)

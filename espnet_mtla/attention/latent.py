"""MLA and MTLA: attention over low-rank latents, merged in time by MTLA.

Symbols: ``c`` latent, ``m`` merged latent, ``r`` its width (``kv_lora_rank``),
``k_rope`` the rotary key that all heads share, ``W_k``, ``W_v`` the up-projections in
``wkv_b``:

    score = (q_nope W_k m + rope(q_rope) . k_rope) / sqrt(d_N + d_R),  value = W_v m

An entry is ``[m, k_rope]``. Decoding moves W_k to the query and W_v behind the sum
("absorbed"), so that the cache is read as it is; training expands the entries to heads,
which takes a third of the work per score. Module names are the reference's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from espnet_mtla.attention.config import LatentConfig
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.linear import linear_matrix
from espnet_mtla.attention.merge import (
    HyperNetwork,
)
from espnet_mtla.attention.overrides import is_plain, keeps_methods
from espnet_mtla.attention.reference_api import ReferenceInterface
from espnet_mtla.attention.rope import rotate
from espnet_mtla.attention.training.attend import attend_latents
from espnet_mtla.attention.training.dense import expand

EXPAND_COST = 1.5
"""Queries from which expanding a prompt is faster, over those from which it is less
arithmetic. CPU, fp32, paper sizes (86 by arithmetic): 112 to 160 for prompts of 250 to
2000 frames at strides 1 and 2."""

FUSED_CACHE_METHODS: dict[str, Callable[..., object]] = {
    "open_entry": KVCache.open_entry,
    "write": KVCache.write,
    "_put": KVCache._put,
}
"""Methods of the cache that the fused write of a token stands for."""


class MultiheadLatentAttention(ReferenceInterface):
    """MLA: the cache holds one latent and one rotary key a token.

    Args: see :class:`LatentConfig`. ``recompute_prompt_attn`` is accepted for the
    reference's sake and changes nothing here: the mask is causal with either kind of
    prompt, and which tokens ask is seen from the query.
    """

    config_type: type[LatentConfig] = LatentConfig
    settings: LatentConfig
    kv_norm: nn.Module

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        recompute_prompt_attn: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = self.config_type(embed_dim, num_heads, **settings)
        self.settings = config
        self.recompute_prompt_attn = recompute_prompt_attn
        self.dropout, self.scale = config.dropout, config.qk_head_dim**-0.5
        self.rope_dim, self.rope_base = config.qk_rope_head_dim, config.rope_base
        self.layout = EntryLayout(
            heads=1,
            width=config.kv_lora_rank + config.qk_rope_head_dim,
            key_width=config.kv_lora_rank + config.qk_rope_head_dim,
            value_start=0,
            value_width=config.kv_lora_rank,
            stride=getattr(config, "down_rate", 1),
        )
        # Of one head: U queries over S latents take 2 r + d_R each, or expanding S to
        # d_N + d_V and d_N + d_R + d_V each. What is expanded is also written and read
        # again, so that it pays from half as many queries more (EXPAND_COST).
        r, up = config.kv_lora_rank, config.qk_nope_head_dim + config.v_head_dim
        fewest = EXPAND_COST * r * up / (2 * r - up) if 2 * r > up else 1
        self.expand_from = ceil(fewest)
        self._make_projections(config)

    def _make_projections(self, config: LatentConfig) -> None:
        width, heads, bias = config.embed_dim, config.num_heads, config.bias
        if config.q_lora_rank == 0:
            self.wq = nn.Linear(width, heads * config.qk_head_dim, bias=bias)
        else:
            self.wq_a = nn.Linear(width, config.q_lora_rank, bias=bias)
            self.q_norm = nn.LayerNorm(config.q_lora_rank)
            self.wq_b = nn.Linear(
                config.q_lora_rank, heads * config.qk_head_dim, bias=bias
            )
        self.wkv_a = nn.Linear(
            width, config.kv_lora_rank + config.qk_rope_head_dim, bias=bias
        )
        self.kv_norm = nn.LayerNorm(config.kv_lora_rank)
        expanded = heads * (config.qk_nope_head_dim + config.v_head_dim)
        # The heads use the weight alone, as the reference does; with ``bias`` there is
        # a parameter of that name in its state dicts, so there is one here.
        self.wkv_b = nn.Linear(config.kv_lora_rank, expanded, bias=bias)
        self.wo = nn.Linear(heads * config.v_head_dim, width, bias=bias)

    def queries(self, x: Tensor, angles: Tensor) -> Tensor:
        if self.settings.q_lora_rank == 0:
            q = self.wq(x)
        else:
            q = self.wq_b(self.q_norm(self.wq_a(x)))
        q_nope, q_rope = self._split_query(
            q.unflatten(-1, (self.settings.num_heads, -1))
        )
        q_rope = self.rotate(q_rope, angles.unsqueeze(2))  # (B, U, H, d_R)
        return torch.cat((q_nope, q_rope), dim=-1).transpose(1, 2)

    def entries(
        self,
        x: Tensor,
        angles: Tensor,
        placement: TokenPlacement | None = None,
        open_entry: Tensor | None = None,
    ) -> Tensor:
        latent, k_rope = self._split_entry(self.wkv_a(x))
        merged = self.merge(self.kv_norm(latent), placement, open_entry)
        return torch.cat((merged, self.rotate(k_rope, angles)), dim=-1).unsqueeze(1)

    def write_token(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> None:
        if not self.has_fused_write(cache):
            super().write_token(x, cache, placement)
            return
        backend: Any = cache.backend  # one of those that have such a kernel
        backend.write_token(
            self.wkv_a(x).squeeze(1),
            self.kv_norm,
            self.merge_network,
            placement,
            cache.suffix,
        )

    def has_fused_write(self, cache: KVCache) -> bool:
        """Return True if the back-end has a kernel that does what the hooks would.

        The kernel stands for :attr:`fused_methods`, for :data:`FUSED_CACHE_METHODS`,
        and for the calls of norm and hyper-network, whose parameters it reads. Where
        any of these is not the package's own, the hooks run.
        """
        norm = self.kv_norm
        return (
            hasattr(cache.backend, "write_token")
            and cache.options.dtype is None
            and keeps_methods(self, self.fused_methods)
            and keeps_methods(cache, FUSED_CACHE_METHODS)
            and is_plain(norm, nn.LayerNorm)
            and norm.weight is not None
            and norm.bias is not None
        )

    @property
    def merge_network(self) -> HyperNetwork | None:
        """What weighs latents as they are merged; None: they are not."""
        return None

    def rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        """Rotary parts ``(..., d_R)`` turned; a subclass may lay them out otherwise."""
        return rotate(x, angles)

    def merge(
        self,
        latent: Tensor,
        placement: TokenPlacement | None,
        open_entry: Tensor | None,
    ) -> Tensor:
        """Latents ``(B, T, r)`` as the cache holds them; MLA keeps them as they are."""
        del placement, open_entry
        return latent

    def up_matrix(self, like: Tensor) -> Tensor:
        """Return W_k, W_v of each head in turn: ``wkv_b``, ``(H (d_N + d_V), r)``."""
        return linear_matrix(self.wkv_b, self.settings.kv_lora_rank, like, "wkv_b")

    def up_projections(
        self, like: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """W_k ``(H, d_N, r)`` and W_v ``(H, d_V, r)``; see :meth:`up_matrix`."""
        up = self.up_matrix(like) if up is None else up
        by_head = up.unflatten(0, (self.settings.num_heads, -1))
        return by_head.split(
            (self.settings.qk_nope_head_dim, self.settings.v_head_dim), 1
        )

    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        up, stride = self.up_matrix(entries), self.layout.stride
        entries = entries.squeeze(1)
        return attend_latents(q, entries, up, query_index, stride, self.scale, dropout)

    def expand(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Entries ``(B, 1, S, r + d_R)`` to keys and values of each head."""
        heads, width = self.settings.num_heads, self.settings.qk_head_dim
        up = self.up_matrix(entries) if up is None else up
        return expand(entries.squeeze(1), up, heads, width)

    @property
    def heads_layout(self) -> EntryLayout:
        key, value = self.settings.qk_head_dim, self.settings.v_head_dim
        heads, stride = self.settings.num_heads, self.layout.stride
        return EntryLayout(heads, key + value, key, key, value, stride)

    def absorb(self, q: Tensor, up: Tensor | None = None) -> Tensor:
        """Queries ``(N, H, U, d_N + d_R)`` to ``(N, H, U, r + d_R)``."""
        q_nope, q_rope = self._split_query(q)
        w_k, _ = self.up_projections(q, up)
        return torch.cat((_times_heads(q_nope, w_k), q_rope), dim=-1)

    def up_project(self, out: Tensor, up: Tensor | None = None) -> Tensor:
        """Summed latents ``(N, H, U, r)`` to values ``(N, H, U, d_V)``."""
        _, w_v = self.up_projections(out, up)
        return _times_heads(out, w_v.mT)

    def project_out(self, out: Tensor) -> Tensor:
        """``(B, H, U, d_V) -> (B, U, D)``."""
        return self.wo(out.transpose(1, 2).flatten(2))

    def _split_query(self, q: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (self.settings.qk_nope_head_dim, self.settings.qk_rope_head_dim)
        return q.split(sizes, dim=-1)

    def _split_entry(self, entry: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (self.settings.kv_lora_rank, self.settings.qk_rope_head_dim)
        return entry.split(sizes, dim=-1)

    fused_methods: ClassVar[dict[str, Callable[..., object]]] = {
        "_write": ReferenceInterface._write,
        "entries": entries,
        "_split_entry": _split_entry,
        "rotate": rotate,
        "merge": merge,
    }
    """Methods that the fused write of a token stands for, see has_fused_write."""


def _times_heads(x: Tensor, weight: Tensor) -> Tensor:
    """``x (N, H, U, a)`` by a matrix of each head ``(H, a, b)``: ``(N, H, U, b)``.

    One product a head, where ``@`` would make one a head and row.
    """
    product = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight)
    return product.unflatten(1, (x.size(0), x.size(2))).transpose(0, 1)

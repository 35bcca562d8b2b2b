"""MLA: attention over low-rank latents. MTLA (:mod:`.temporal`) merges them in time.

Symbols: ``c`` latent, ``m`` merged latent, ``r`` its width (``kv_lora_rank``),
``k_rope`` the rotary key that all heads share, ``W_k``, ``W_v`` the up-projections in
``wkv_b``:

    score = (q_nope W_k m + rope(q_rope) . k_rope) / sqrt(d_N + d_R),  value = W_v m

In MLA m is c itself. A cache entry is ``[m, k_rope]``. Decoding applies W_k to the
query and W_v to the weighted sum (they are "absorbed"), so that entries are read as
they are stored. Training expands the entries to heads, which takes a third of the
arithmetic per score. Module names are those of the reference.

Letters beside those of :mod:`.contract`: ``d_N`` and ``d_R`` widths of a head's query
without and with rotary position (``d = d_N + d_R``), ``d_V`` width of its value.
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
from espnet_mtla.attention.merge import HyperNetwork
from espnet_mtla.attention.overrides import is_plain, keeps_methods
from espnet_mtla.attention.reference_api import ReferenceInterface
from espnet_mtla.attention.rope import rotate
from espnet_mtla.attention.training.attend import attend_latents, attend_window
from espnet_mtla.attention.training.dense import expand

EXPAND_COST = 1.5
"""Memory traffic of expanding a prompt, as a factor on the least number of queries.

Measured on CPUs in fp32 at the paper's sizes: expanding pays from 112 to 160 queries
for prompts of 250 to 2000 frames and strides 1 and 2; arithmetic alone says 86.
"""

FUSED_CACHE_METHODS: dict[str, Callable[..., object]] = {
    "open_entry": KVCache.open_entry,
    "write": KVCache.write,
    "_put": KVCache._put,
}
"""Methods of the cache that the fused write of a token replaces."""


class MultiheadLatentAttention(ReferenceInterface):
    """MLA: the cache holds one latent and one rotary key a token.

    Args:
        embed_dim: width D of the model.
        num_heads: query heads H.
        recompute_prompt_attn: stored, and otherwise ignored: the authors' module takes
            it. Here the attention is causal either way, and whether a prompt is
            computed again is the decoder's ``prompt_mode``.
        settings: other fields of :class:`.LatentConfig`.
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
        config = self.config_type(embed_dim, num_heads, **settings)
        width = config.kv_lora_rank + config.qk_rope_head_dim
        layout = EntryLayout(
            heads=1,
            width=width,
            key_width=width,
            value_start=0,
            value_width=config.kv_lora_rank,
            stride=config.stride,
            offset=config.offset,
            window=config.window,
        )
        super().__init__(
            config,
            layout,
            scale=config.qk_head_dim**-0.5,
            rope_dim=config.qk_rope_head_dim,
            rope_base=config.rope_base,
            rope_frequencies=config.rope_frequencies,
            expand_from=_queries_to_expand(config),
        )
        self.recompute_prompt_attn = recompute_prompt_attn
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
        norms = {"layer": nn.LayerNorm, "none": nn.Identity}
        self.kv_norm = norms[config.kv_norm](config.kv_lora_rank)
        expanded = heads * (config.qk_nope_head_dim + config.v_head_dim)
        # The heads use the weight alone, as in the reference. With ``bias`` there is a
        # bias all the same: state dicts of the reference have one.
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
        latent, k_rope = self.kv_norm(latent), self.rotate(k_rope, angles)
        merged = self.merge(latent, placement, open_entry)
        running = torch.cat((merged, k_rope), dim=-1).unsqueeze(1)
        if self.layout.window == 0:
            return running
        raw = torch.cat((latent, k_rope), dim=-1).unsqueeze(1)
        return torch.cat((running, raw), dim=1)

    def has_fused_write(self, cache: KVCache) -> bool:
        """Return True if the back-end has a kernel that computes what the hooks would.

        The kernel replaces :attr:`fused_methods`, :data:`FUSED_CACHE_METHODS`, and the
        calls of norm and hyper-network, whose parameters it reads. If a subclass, a
        hook or an adapter has changed any of these, the hooks run instead.
        """
        norm = self.kv_norm
        return (
            cache.backend.token_writer is not None
            and self.layout.window == 0  # the kernel writes merged entries alone
            and cache.options.dtype is None
            and keeps_methods(self, self.fused_methods)
            and keeps_methods(cache, FUSED_CACHE_METHODS)
            and is_plain(norm, nn.LayerNorm)
            and norm.weight is not None
            and norm.bias is not None
        )

    def fused_write(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> None:
        write, norm = cache.backend.token_writer, self.kv_norm
        assert write is not None, "has_fused_write() is called before"
        assert isinstance(norm, nn.LayerNorm), "has_fused_write() is called before"
        raw = self.wkv_a(x).squeeze(1)
        write(raw, norm, self.merge_network, placement, cache.suffix)

    @property
    def merge_network(self) -> HyperNetwork | None:
        """Hyper-network of the merge weights; None: latents are not merged."""
        return None

    def rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        """Rotate ``x (..., d_R)``; a subclass may order the numbers differently."""
        return rotate(x, angles)

    def merge(
        self,
        latent: Tensor,
        placement: TokenPlacement | None,
        open_entry: Tensor | None,
    ) -> Tensor:
        """Return what the cache holds of a chunk after each token, ``(B, T, r)``.

        MLA does not merge: a chunk is one token, so ``latent`` is returned unchanged.

        Args:
            latent: normalised latents of the tokens, ``(B, T, r)``.
            placement: where the tokens stand in their rows; None: at the beginning.
            open_entry: cache entry of the chunk that a row's first token continues.
        """
        del placement, open_entry
        return latent

    def up_matrix(self, like: Tensor) -> Tensor:
        """Return the matrix of ``wkv_b (H (d_N + d_V), r)``: W_k and W_v by head."""
        return linear_matrix(self.wkv_b, self.settings.kv_lora_rank, like, "wkv_b")

    def up_projections(
        self, like: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return W_k ``(H, d_N, r)`` and W_v ``(H, d_V, r)``; see :meth:`up_matrix`."""
        up = self.up_matrix(like) if up is None else up
        by_head = up.unflatten(0, (self.settings.num_heads, -1))
        return by_head.split(
            (self.settings.qk_nope_head_dim, self.settings.v_head_dim), 1
        )

    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        up, layout = self.up_matrix(entries), self.layout
        settings = (layout.stride, self.scale, dropout, layout.offset)
        if layout.window == 0:
            entries = entries.squeeze(1)
            return attend_latents(q, entries, up, query_index, *settings)
        chunks = (layout.stride, layout.offset, layout.window)
        running, raw = entries.unbind(1)
        return attend_window(
            q, running, raw, up, query_index, *chunks, self.scale, dropout
        )

    def expand(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Project entries ``(B, 1, S, r + d_R)`` up to keys and values of each head."""
        heads, width = self.settings.num_heads, self.settings.qk_head_dim
        up = self.up_matrix(entries) if up is None else up
        return expand(entries.squeeze(1), up, heads, width)

    @property
    def heads_layout(self) -> EntryLayout:
        key, value = self.settings.qk_head_dim, self.settings.v_head_dim
        heads, layout = self.settings.num_heads, self.layout
        chunks = (layout.stride, layout.offset, layout.window)
        return EntryLayout(heads, key + value, key, key, value, *chunks)

    def absorb(self, q: Tensor, up: Tensor | None = None) -> Tensor:
        """Apply W_k to queries ``(N, H, U, d_N + d_R)``: ``(N, H, U, r + d_R)``."""
        q_nope, q_rope = self._split_query(q)
        w_k, _ = self.up_projections(q, up)
        return torch.cat((_times_heads(q_nope, w_k), q_rope), dim=-1)

    def up_project(self, out: Tensor, up: Tensor | None = None) -> Tensor:
        """Apply W_v to sums of latents ``(N, H, U, r)``: ``(N, H, U, d_V)``."""
        _, w_v = self.up_projections(out, up)
        return _times_heads(out, w_v.mT)

    def project_out(self, out: Tensor) -> Tensor:
        """Project heads ``(B, H, U, d_V)`` to ``(B, U, D)``."""
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
    """Methods that the fused write of a token replaces, see :meth:`has_fused_write`."""


def _queries_to_expand(config: LatentConfig) -> int:
    """Return the queries of an utterance from which expanding its prompt is faster.

    Of one head, U queries over S absorbed latents take ``U S (2 r + d_R)`` products.
    Expanding takes ``S r (d_N + d_V)`` once and then ``U S (d_N + d_R + d_V)``. The
    difference gives U; :data:`EXPAND_COST` accounts for writing and reading the heads.
    """
    r, up = config.kv_lora_rank, config.qk_nope_head_dim + config.v_head_dim
    return ceil(EXPAND_COST * r * up / (2 * r - up)) if 2 * r > up else 1


def _times_heads(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply ``x (N, H, U, a)`` by a matrix a head ``(H, a, b)``: ``(N, H, U, b)``.

    This is one matrix product a head; ``x @ weight`` would be one a head and row.
    """
    product = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight)
    return product.unflatten(1, (x.size(0), x.size(2))).transpose(0, 1)

"""MTLA, the attention of arXiv 2505.13544, and its cross-attention variant.

MTLA is MLA with latents merged in time (:mod:`.merge` has the equations). A
hyper-network gives each latent ``c_j`` a weight ``w_j``, and the ``s = down_rate``
weighted latents of a chunk are added up as they arrive. A query at position ``i``
attends to the finished chunks before its own, and to the running sum of its own chunk:
``m_i``, the sum of ``w_j c_j`` from the chunk's first token to ``i``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from espnet_mtla.attention.config import (
    Frequencies,
    LatentConfig,
    TemporalLatentConfig,
)
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.latent import MultiheadLatentAttention
from espnet_mtla.attention.merge import (
    HyperNetwork,
    add_to_open,
    chunk_encoding,
    running_sums,
)
from espnet_mtla.attention.reference_api import (
    IncrementalState,
    check_padding,
    check_tokens,
)
from espnet_mtla.attention.training.attend import attend_prefix, gather_tokens
from espnet_mtla.errors import UserError


class MultiheadTemporalLatentAttention(MultiheadLatentAttention):
    """MTLA (arXiv 2505.13544): latents are merged in chunks of ``down_rate`` tokens.

    Args: see :class:`.TemporalLatentConfig`. The positional ones have the reference's
    order.
    """

    config_type = TemporalLatentConfig
    settings: TemporalLatentConfig
    hypernet_down: HyperNetwork | None
    """Merge weights; None only in subclasses that override :meth:`merge`."""

    def __new__(
        cls, *args: object, cross_att: bool = False, **settings: object
    ) -> MultiheadTemporalLatentAttention:
        """Create the cross-attention variant if ``cross_att`` is true."""
        del args, settings
        if cross_att:
            cls = MultiheadTemporalLatentCrossAttention
        return object.__new__(cls)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = LatentConfig.dropout,
        bias: bool = LatentConfig.bias,
        q_lora_rank: int = LatentConfig.q_lora_rank,
        kv_lora_rank: int = LatentConfig.kv_lora_rank,
        qk_nope_head_dim: int = LatentConfig.qk_nope_head_dim,
        qk_rope_head_dim: int = LatentConfig.qk_rope_head_dim,
        v_head_dim: int = LatentConfig.v_head_dim,
        down_rate: int = TemporalLatentConfig.down_rate,
        recompute_prompt_attn: bool = False,
        *,
        cross_att: bool = False,
        rope_base: float = LatentConfig.rope_base,
        rope_frequencies: Frequencies = LatentConfig.rope_frequencies,
        kv_norm: str = LatentConfig.kv_norm,
        raw_window: int = TemporalLatentConfig.raw_window,
        phase: bool = TemporalLatentConfig.phase,
        layer: int = TemporalLatentConfig.layer,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            recompute_prompt_attn=recompute_prompt_attn,
            dropout=dropout,
            bias=bias,
            q_lora_rank=q_lora_rank,
            kv_lora_rank=kv_lora_rank,
            qk_nope_head_dim=qk_nope_head_dim,
            qk_rope_head_dim=qk_rope_head_dim,
            v_head_dim=v_head_dim,
            down_rate=down_rate,
            rope_base=rope_base,
            rope_frequencies=rope_frequencies,
            kv_norm=kv_norm,
            raw_window=raw_window,
            phase=phase,
            layer=layer,
        )
        self.cross_att = cross_att
        self.hypernet_down = HyperNetwork(self.settings.kv_lora_rank)

    def has_fused_write(self, cache: KVCache) -> bool:
        network = self.merge_network
        own = network is not None and network.is_plain()
        return own and super().has_fused_write(cache)

    @property
    def merge_network(self) -> HyperNetwork | None:
        return self.hypernet_down

    def chunk_encodings(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        layout = self.layout
        chunks = (index + layout.offset if layout.offset else index) // layout.stride
        return chunk_encoding(chunks, self.settings.kv_lora_rank).to(dtype)

    def merge(
        self,
        latent: Tensor,
        placement: TokenPlacement | None,
        open_entry: Tensor | None,
    ) -> Tensor:
        if self.hypernet_down is None:
            raise TypeError("hypernet_down is None: override merge(), or set a network")
        rank, stride, offset = latent.size(-1), self.layout.stride, self.layout.offset
        if placement is None:
            weighted = self.hypernet_down(latent, stride, offset) * latent
            return running_sums(weighted, stride, offset=offset)
        assert placement.chunk_encodings is not None, "locate() computes them"
        weighted = self.hypernet_down.weigh(latent, placement.chunk_encodings) * latent
        summed = None if open_entry is None else open_entry[:, 0, :rank]
        if latent.size(1) == 1 and summed is not None:
            return add_to_open(weighted, summed, placement.is_open)
        return running_sums(weighted, stride, placement.start, summed, offset)

    fused_methods: ClassVar[dict[str, Callable[..., object]]] = {
        **MultiheadLatentAttention.fused_methods,
        "merge": merge,
    }


class MultiheadTemporalLatentCrossAttention(MultiheadTemporalLatentAttention):
    """MTLA over a fixed memory: merged chunks, no rotary positions, no causal mask.

    The memory's last chunk is attended even if it is not full. The reference leaves
    out the tokens of such a chunk.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *args: Any,
        cross_att: bool = True,
        **settings: Any,
    ) -> None:
        if not cross_att:
            raise UserError("cross_att: False given, the cross-attention needs True")
        for name in ("raw_window", "phase"):
            if settings.get(name):
                raise UserError(
                    f"{name}: {settings[name]!r} given, cross-attention has none; "
                    "leave it out"
                )
        settings["qk_rope_head_dim"] = 0
        super().__init__(embed_dim, num_heads, *args, cross_att=True, **settings)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,  # noqa: ARG002 - the reference's signature
        key_padding_mask: Tensor | None = None,
        self_attn_mask: Tensor | None = None,
        position: Tensor | None = None,  # noqa: ARG002 - the reference's signature
        incremental_state: IncrementalState | None = None,
        need_weights: bool = False,
        use_flashattn_infer: bool = False,
    ) -> Tensor:
        """Compute attention of ``query (B, U, D)`` over the memory ``key (B, T, D)``.

        Args:
            query: decoder states, ``(B, U, D)``.
            key: encoder output, ``(B, T, D)``.
            value: not read: keys and values are computed from the same latents.
            key_padding_mask: true at the memory's padding, ``(B, T)``.
            self_attn_mask: must be None; has no meaning in cross-attention.
            position: not read: there are no rotary positions.
            incremental_state: stores the merged memory at the first call; later calls
                do not read ``key``.
            need_weights: must be False.
            use_flashattn_infer: must be False.

        Returns:
            ``(B, U, D)``.

        Raises:
            UserError: an argument is not supported or has a wrong shape.
        """
        unused = {
            "self_attn_mask": self_attn_mask is not None,
            "need_weights": need_weights,
            "use_flashattn_infer": use_flashattn_infer,
        }
        for name, is_set in unused.items():
            if is_set:
                raise UserError(f"{name}: has no meaning in cross-attention")
        state = {} if incremental_state is None else incremental_state
        check_tokens(self, query, key if self._state_key not in state else query)
        if self._state_key not in state:
            check_padding(key_padding_mask, *key.shape[:2])
            state[self._state_key] = self._merged_memory(key, key_padding_mask)
        entries, count = state[self._state_key]
        if len(entries) != len(query):
            raise UserError(
                f"query: {len(query)} rows given, the incremental state has "
                f"{len(entries)}; reorder it first"
            )
        keys, values = self.expand(entries)
        no_angles = self.angles(query.new_zeros(1, query.size(1)), query.dtype)
        q = self.queries(query, no_angles)
        visible = count.unsqueeze(1).expand(-1, query.size(1))
        dropout = self.dropout if self.training else 0.0
        out = attend_prefix(q, keys, values, visible, self.scale, dropout)
        return self.project_out(out)

    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> IncrementalState:
        if self._state_key in incremental_state:
            entries, count = incremental_state[self._state_key]
            incremental_state[self._state_key] = (entries[new_order], count[new_order])
        return incremental_state

    def _merged_memory(self, key: Tensor, pad: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return entries ``(B, 1, S, r)``, one a begun chunk, and their count."""
        tokens, s = key.size(1), self.layout.stride
        length = key.new_full((key.size(0),), tokens, dtype=torch.long)
        if pad is not None:
            order = pad.to(torch.uint8).argsort(dim=1, stable=True)
            key = gather_tokens(key, order).masked_fill(
                gather_tokens(pad, order).bool().unsqueeze(-1), 0.0
            )
            length = (~pad.bool()).sum(1)
        running = self.entries(key, self.angles(key.new_zeros(1, tokens), key.dtype))
        last = torch.arange(s - 1, tokens + s - 1, s, device=key.device)
        last = torch.minimum(last.unsqueeze(0), (length - 1).clamp(min=0).unsqueeze(1))
        entries = gather_tokens(running.transpose(1, 2), last).transpose(1, 2)
        # A row without valid frames sees one entry, so that its output is finite.
        return entries, (-(-length // s)).clamp(min=1)

"""The attention layer of a Llama with MTLA.

The computation is that of :mod:`espnet_mtla.attention`. Methods are overridden for
the order of a rotary key's components, and for MLA without merging.

Letters: ``N`` packed rows, ``T`` new tokens of a row, ``D`` model width, ``H`` heads.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from espnet_mtla.attention.base import QueryTokens
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.inspect import chunk_weights, over_tokens, refuse_options
from espnet_mtla.attention.latent import MultiheadLatentAttention
from espnet_mtla.attention.rope import rotate
from espnet_mtla.attention.temporal import MultiheadTemporalLatentAttention
from espnet_mtla.hf.llama.cache import TemporalLatentCache
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig, rope_settings
from espnet_mtla.hf.llama.rollback import RowsCache


@dataclass(frozen=True)
class PassInputs:
    """What all layers need in one pass, besides the hidden states.

    Attributes:
        angles: rotary angles of the new tokens, ``(N or 1, T, pairs)``; None: from the
            positions 0 to T - 1.
        placement: slots of the new tokens in the cache; None without a cache.
        lengths: real tokens of each row, ``(N,)``; None: all T.
        is_first: the cache was empty before this pass.
        cache: earlier tokens; the layers add the new ones.
        attention_maps: list that each layer appends its weights to, ``(N, H, T, tokens
            of a row)``; None: weights are not computed.
    """

    angles: Tensor | None = None
    placement: TokenPlacement | None = None
    lengths: Tensor | None = None
    is_first: bool = False
    cache: TemporalLatentCache | None = None
    attention_maps: list[Tensor] | None = None

    @property
    def cache_placement(self) -> TokenPlacement:
        """Return ``placement``, which is set whenever ``cache`` is."""
        assert self.placement is not None, "the model places tokens in its cache"
        return self.placement


class LlamaMTLAAttention(MultiheadTemporalLatentAttention):
    """Attention of one layer; its parameters have the reference's names."""

    def __init__(self, config: LlamaMTLAConfig, layer_idx: int) -> None:
        super().__init__(**config.attention_settings())
        self.config, self.layer_idx = config, layer_idx
        self.halves = config.rope_layout == "halves"
        self.rope_scale = 1.0
        rope_type = rope_settings(config)["rope_type"]
        if self.rope_frequencies is None and rope_type != "default":
            llama = copy(config)
            llama.head_dim = config.qk_rope_head_dim
            with torch.device("cpu"):  # values are needed, also in a model on "meta"
                rotary = LlamaRotaryEmbedding(llama)
            self.rope_frequencies = tuple(rotary.inv_freq.tolist())
            self.rope_scale = rotary.attention_scaling
        if not config.hyper_network:
            self.hypernet_down = None

    # Overrides of the attention ------------------------------------------------------

    def rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        """Rotate the pairs of ``x`` and scale them; see the base class."""
        # Halves become adjacent pairs and stay so: scores do not depend on the order.
        if self.halves:
            x = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        turned = rotate(x, angles)
        return turned if self.rope_scale == 1 else turned * self.rope_scale

    def merge(
        self,
        latent: Tensor,
        placement: TokenPlacement | None,
        open_entry: Tensor | None,
    ) -> Tensor:
        """Merge latents into chunks; without a hyper-network, return them unmerged."""
        if self.hypernet_down is None:
            return MultiheadLatentAttention.merge(self, latent, placement, open_entry)
        return super().merge(latent, placement, open_entry)

    # ---------------------------------------------------------------------------------

    def forward(self, hidden_states: Tensor, inputs: PassInputs) -> Tensor:  # type: ignore[override]
        """Attend from packed rows ``(N, T, D)``; the result has the same shape.

        Llama's own attention has cache, mask and positions as keywords. Here they are
        all in ``inputs``, and no keyword is accepted and then ignored.
        """
        x, cache = hidden_states, None
        if inputs.cache is not None:
            cache = inputs.cache.layers[self.layer_idx].rows
        if inputs.attention_maps is not None:
            return self._attend_with_maps(x, cache, inputs, inputs.attention_maps)
        if cache is None:
            return self.attend_all(x, angles=inputs.angles)
        placement = inputs.cache_placement
        if not inputs.is_first:
            return self.step(x, cache, placement, inputs.lengths)
        # The prompt is attended as in training (no cache is read), and cached.
        entries = self.entries(x, placement.angles)
        cache.write(entries, placement, inputs.lengths)
        return self._attend_entries(entries, QueryTokens(x), placement.angles)

    def _attend_with_maps(
        self, x: Tensor, cache: RowsCache | None, inputs: PassInputs, maps: list[Tensor]
    ) -> Tensor:
        """Attend with explicit weights, which are appended to ``maps``; ``(N, T, D)``.

        Without earlier tokens the output is computed from the appended weights, so that
        gradients flow through them.
        """
        assert inputs.angles is not None, "the model computes angles for attention maps"
        refuse_options(self.layout)
        q, layout = self.absorb(self.queries(x, inputs.angles)), self.layout
        if cache is None:
            running, tokens = self.entries(x, inputs.angles), x.size(1)
        else:
            running = self._write(x, cache, inputs.cache_placement, inputs.lengths)
            tokens = cache.timeline.width
        if cache is None or inputs.is_first:
            finished = running[:, :, layout.stride - 1 :: layout.stride]
            index = torch.arange(x.size(1), device=x.device).unsqueeze(0)
        else:
            finished = cache.filled_entries(inputs.cache_placement, inputs.lengths)
            index = inputs.cache_placement.index
        weights = chunk_weights(
            q, layout, finished, running, index // layout.stride, self.scale
        )
        weights = F.dropout(weights, self.dropout, self.training)
        shown = over_tokens(weights, index, layout.stride, tokens)
        maps.append(shown)
        if cache is None or inputs.is_first:
            out = shown[..., : x.size(1)] @ layout.values(running)
        else:
            out = weights[..., :-1] @ layout.values(finished)
            out = out + weights[..., -1:] * layout.values(running)
        return self.project_out(self.up_project(out))

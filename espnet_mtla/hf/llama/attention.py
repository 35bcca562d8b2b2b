"""MTLA inside a Llama: the project's attention with a config's settings, and its cache.

The arithmetic is that of :mod:`espnet_mtla.attention`. What differs is said by hooks:
rotary frequencies of any Llama, and keys whose rotary numbers lie in halves.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from espnet_mtla.attention.base import QueryTokens
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.inspect import chunk_weights, over_tokens
from espnet_mtla.attention.latent import MultiheadLatentAttention
from espnet_mtla.attention.precision import accumulation_dtype
from espnet_mtla.attention.rope import rotate
from espnet_mtla.attention.temporal import MultiheadTemporalLatentAttention
from espnet_mtla.hf.llama.cache import TemporalLatentCache
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig, rope_settings
from espnet_mtla.hf.llama.rollback import RowsCache


@dataclass(frozen=True)
class Step:
    """Where the tokens of one pass through the layers stand.

    Attributes:
        angles: rotary angles ``(N or 1, T, .)``; None: tokens of a row count.
        placement: their places in the cache; None without one.
        lengths: real tokens of each row where they differ, ``(N,)``.
        fresh: whether nothing has been seen before.
        cache: what rows have seen; gets their new tokens.
        noted: gets each layer's weights ``(N, H, T, tokens of a row)``; None: nobody
            wants to see them.
    """

    angles: Tensor | None = None
    placement: TokenPlacement | None = None
    lengths: Tensor | None = None
    fresh: bool = False
    cache: TemporalLatentCache | None = None
    noted: list[Tensor] | None = None

    @property
    def placed(self) -> TokenPlacement:
        """``placement``, which is there wherever a cache is."""
        assert self.placement is not None, "the model places tokens in its cache"
        return self.placement


class LlamaMTLAAttention(MultiheadTemporalLatentAttention):
    """One layer's attention; parameters have the reference's names."""

    def __init__(self, config: LlamaMTLAConfig, layer_idx: int) -> None:
        super().__init__(**config.attention_settings())
        self.config, self.layer_idx = config, layer_idx
        self.halves = config.rope_layout == "halves"
        self.frequencies, self.turned_scale = config.rope_frequencies, 1.0
        kind = rope_settings(config)["rope_type"]
        if self.frequencies is None and kind != "default":
            llama = copy(config)
            llama.head_dim = config.qk_rope_head_dim
            with torch.device("cpu"):  # a model may be built on no device at all
                rotary = LlamaRotaryEmbedding(llama)
            self.frequencies = rotary.inv_freq.tolist()
            self.turned_scale = rotary.attention_scaling
        if config.kv_norm == "none":
            self.kv_norm = nn.Identity()
        if not config.hyper_network:
            self.hypernet_down = None

    # Hooks of the attention ----------------------------------------------------------

    def angles(self, position: Tensor, dtype: torch.dtype) -> Tensor:
        if self.frequencies is None:
            return super().angles(position, dtype)
        exact = accumulation_dtype(dtype)
        frequency = torch.tensor(self.frequencies, dtype=exact, device=position.device)
        return position.to(exact).unsqueeze(-1) * frequency

    def rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        if self.halves:  # scores do not depend on the order of the numbers
            x = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        turned = rotate(x, angles)
        return turned if self.turned_scale == 1 else turned * self.turned_scale

    def merge(
        self,
        latent: Tensor,
        placement: TokenPlacement | None,
        open_entry: Tensor | None,
    ) -> Tensor:
        if self.hypernet_down is None:
            return MultiheadLatentAttention.merge(self, latent, placement, open_entry)
        return super().merge(latent, placement, open_entry)

    # ---------------------------------------------------------------------------------

    def forward(self, hidden_states: Tensor, step: Step) -> Tensor:  # type: ignore[override]
        """Attend as one layer of a Llama does: packed rows ``(N, T, D)`` in and out.

        Llama's own attention takes its cache, mask and positions as keywords. All of
        that is in ``step``, so that none of them can be passed here unseen.
        """
        x, cache = hidden_states, None
        if step.cache is not None:
            cache = step.cache.layers[self.layer_idx].rows
        if step.noted is not None:
            return self._attend_shown(x, cache, step, step.noted)
        if cache is None:
            return self.attend_all(x, angles=step.angles)
        placement = step.placed
        if not step.fresh:
            return self.step(x, cache, placement, step.lengths)
        # The first tokens are attended as in training, and cached on the way.
        entries = self.entries(x, placement.angles)
        cache.write(entries, placement, step.lengths)
        return self._attend_entries(entries, QueryTokens(x), placement.angles)

    def _attend_shown(
        self, x: Tensor, cache: RowsCache | None, step: Step, noted: list[Tensor]
    ) -> Tensor:
        """The same by weights that are kept: ``(N, T, D)``, and one more in ``noted``.

        The output of first tokens is made from what is noted, so that gradients reach
        it.
        """
        assert step.angles is not None, "the model gives them"
        q, layout = self.absorb(self.queries(x, step.angles)), self.layout
        if cache is None:
            own, tokens = self.entries(x, step.angles), x.size(1)
        else:
            own = self._write(x, cache, step.placed, step.lengths)
            tokens = cache.timeline.width
        if cache is None or step.fresh:
            finished = own[:, :, layout.stride - 1 :: layout.stride]
            index = torch.arange(x.size(1), device=x.device).unsqueeze(0)
        else:
            finished = cache.written(step.placed, step.lengths)
            index = step.placed.index
        weights = chunk_weights(
            q, layout, finished, own, index // layout.stride, self.scale
        )
        weights = F.dropout(weights, self.dropout, self.training)
        shown = over_tokens(weights, index, layout.stride, tokens)
        noted.append(shown)
        if cache is None or step.fresh:
            out = shown[..., : x.size(1)] @ layout.values(own)
        else:
            out = weights[..., :-1] @ layout.values(finished)
            out = out + weights[..., -1:] * layout.values(own)
        return self.project_out(self.up_project(out))

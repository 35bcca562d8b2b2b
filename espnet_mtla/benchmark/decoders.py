"""The reference's decoding: a cache that grows by ``cat``, a prompt copy a hypothesis.

Its attention stands in our layers with our weights, so results must be equal; what is
compared is how attention and cache work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from espnet_mtla.attention import (
    CausalAttention,
    MultiheadAttention,
    MultiheadLatentAttention,
    MultiheadTemporalLatentAttention,
)
from espnet_mtla.attention.rope import rotary_angles, rotate
from espnet_mtla.benchmark.peers import mtla_attention
from espnet_mtla.decoder.prepacked_linear import packed

if TYPE_CHECKING:
    from espnet_mtla.benchmark.peers import PeerAttention
    from espnet_mtla.decoder import DecoderOnlyTransformer


WIDTHS = (
    *("q_lora_rank", "kv_lora_rank", "v_head_dim"),
    *("qk_nope_head_dim", "qk_rope_head_dim"),
)


class ConcatMultihead(nn.Module):
    """MHA as fairseq-style decoders have it. ``mtla`` has no MHA of its own.

    Keys and values of all hypotheses ``(N, H, T, d)``, made longer by ``cat`` in every
    step and moved by ``index_select``.
    """

    def __init__(self, ours: MultiheadAttention) -> None:
        super().__init__()
        self.ours = ours  # the projections alone are used
        self.kept: tuple[Tensor, Tensor] | None = None  # keys and values

    def forward(self, query: Tensor, key: Tensor, position: Tensor) -> Tensor:
        """The last of the new tokens ``key (N, L, D)`` asks: ``(N, 1, D)``."""
        ours = self.ours
        angles = rotary_angles(position, ours.rope_dim, ours.rope_base, key.dtype)
        angles = angles.unsqueeze(1)
        q = rotate(self._heads(ours.wq(query)), angles[:, :, -1:])
        k, v = rotate(self._heads(ours.wk(key)), angles), self._heads(ours.wv(key))
        if self.kept is not None:
            keys, values = self.kept
            k, v = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        self.kept = k, v
        weights = torch.softmax(q @ k.transpose(2, 3) * ours.scale, dim=-1)
        return ours.wo((weights @ v).transpose(1, 2).flatten(2))

    def reorder(self, rows: Tensor) -> None:
        if self.kept is not None:
            keys, values = self.kept
            self.kept = keys.index_select(0, rows), values.index_select(0, rows)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.kept or ())

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.ours.settings.num_heads, -1)).transpose(1, 2)


class ReferenceTemporal(nn.Module):
    """The ``mtla`` package's module and its dictionary of state."""

    def __init__(self, module: PeerAttention) -> None:
        super().__init__()
        self.module = module
        self.state: dict[str, dict[str, Tensor]] = {}

    def forward(self, query: Tensor, key: Tensor, position: Tensor) -> Tensor:
        return self.module(
            query=query,
            key=key,
            value=key,
            position=position,
            incremental_state=self.state,
        )

    def reorder(self, rows: Tensor) -> None:
        self.module.reorder_incremental_state(self.state, rows)

    @property
    def nbytes(self) -> int:
        (kept,) = self.state.values()
        return sum(kept[name].nbytes for name in ("prev_kv_t", "prev_k_pe"))


class ReferenceDecoder:
    """Our decoder's layers around the reference's attention; fixed prompt.

    Args:
        decoder: of attention ``mha`` or ``mtla``.
        prompt: ``(B, P, D)``, all of one length; every hypothesis gets a copy.
    """

    def __init__(
        self, decoder: DecoderOnlyTransformer, prompt: Tensor, beam: int
    ) -> None:
        self.decoder = decoder
        self.attention = [_peer(layer.attention) for layer in decoder.layers]
        self.prompt = prompt.repeat_interleave(beam, dim=0)
        self.seen = 0

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)`` after one more token ``(N,)``."""
        decoder, first = self.decoder, self.seen == 0
        x = decoder.embed(tokens.unsqueeze(1))
        new = self.prompt.size(1) + 1 if first else 1
        position = torch.arange(self.seen, self.seen + new, device=x.device)
        position = position.float().unsqueeze(0)
        for layer, attention in zip(decoder.layers, self.attention, strict=True):
            asking = layer.attention_norm(x)
            key = asking
            if first:
                key = torch.cat((layer.attention_norm(self.prompt), asking), dim=1)
            x = layer.feed_forward(x + attention(asking, key, position))
        self.seen += new
        return decoder.output(decoder.norm(x))[:, -1]

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        for attention in self.attention:
            attention.reorder(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the cache as it stands."""
        return sum(attention.nbytes for attention in self.attention)


class WithoutAttention:
    """Our decoder's layers with nothing in the place of attention.

    Weights are packed as they are for ours: no attention can decode in less time.
    """

    nbytes = 0

    def __init__(self, decoder: DecoderOnlyTransformer, rows: int) -> None:
        with torch.inference_mode():
            self.decoder = packed(decoder, rows)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)`` after one more token ``(N,)``, whatever came before."""
        x = self.decoder.embed(tokens)
        for layer in self.decoder.layers:
            x = layer.feed_forward(x)
        return self.decoder.output(self.decoder.norm(x))

    def reorder(self, rows: Tensor) -> None:
        """Nothing is kept between steps."""


class ProductsAlone(WithoutAttention):
    """The step's matrix products with nothing between them: no norm, softmax or cache.

    Of a latent decoder: its projections, the queries against a prompt's entries (one
    copy an utterance), those entries' weighted sums, and all that
    :class:`WithoutAttention` does. What the hypotheses' own entries cost is left out.
    """

    def __init__(
        self, decoder: DecoderOnlyTransformer, prompt: Tensor, beam: int
    ) -> None:
        super().__init__(decoder, len(prompt) * beam)
        first = _latent(decoder.layers[0].attention)
        layout, rows = first.layout, len(prompt) * beam
        heads = first.settings.num_heads
        slots = layout.slots(prompt.size(1))
        self.entries = prompt.new_zeros(len(prompt), slots, layout.width)
        self.asking = prompt.new_zeros(len(prompt), beam * heads, layout.key_width)
        self.weights = prompt.new_zeros(len(prompt), beam * heads, slots)
        self.queries = prompt.new_zeros(heads, rows, first.settings.qk_nope_head_dim)
        self.sums = prompt.new_zeros(heads, rows, layout.value_width)
        self.found = prompt.new_zeros(rows, heads * first.settings.v_head_dim)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)``, of no meaning."""
        x = self.decoder.embed(tokens)
        for layer in self.decoder.layers:
            attention = _latent(layer.attention)
            w_k, w_v = attention.up_projections(x)
            attention.wq(x), attention.wkv_a(x)
            self.queries @ w_k
            self.asking @ attention.layout.keys(self.entries).mT
            self.weights @ attention.layout.values(self.entries)
            self.sums @ w_v.mT
            x = layer.feed_forward(attention.wo(self.found))
        return self.decoder.output(x)


def has_reference(attention: str) -> bool:
    """Whether the reference has this type here: MHA, or MTLA where it is installed."""
    return attention == "mha" or (
        attention == "mtla" and mtla_attention(8, 1, 2) is not None
    )


def _latent(attention: CausalAttention) -> MultiheadLatentAttention:
    if not isinstance(attention, MultiheadLatentAttention):
        raise TypeError("these are the products of a latent decoder")
    return attention


def _peer(ours: CausalAttention) -> ConcatMultihead | ReferenceTemporal:
    if isinstance(ours, MultiheadAttention):
        return ConcatMultihead(ours)
    if isinstance(ours, MultiheadTemporalLatentAttention):
        config = ours.settings
        widths = {name: getattr(config, name) for name in WIDTHS}
        module = mtla_attention(
            config.embed_dim, config.num_heads, config.down_rate, **widths
        )
        assert module is not None, "has_reference() says so before"
        module.load_state_dict(ours.state_dict(), strict=True)
        parameter = next(ours.parameters())
        return ReferenceTemporal(module.to(parameter.device, parameter.dtype).eval())
    raise TypeError(f"{type(ours).__name__}: the reference has no such attention")

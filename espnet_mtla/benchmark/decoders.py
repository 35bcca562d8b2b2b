"""Ways to decode step by step: ours, the reference's, and lower bounds of the time.

The reference's cache grows by ``cat`` and holds a copy of the prompt for each
hypothesis. Its attention is put into our layers with our weights, so the logits must be
equal, and the times differ by attention and cache alone.

Letters: ``B`` utterances, ``N`` hypotheses, ``D`` model width, ``V`` symbols, ``H``
heads, ``P`` prompt frames, ``T`` tokens so far, ``L`` new tokens.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from espnet_mtla.attention import (
    CacheOptions,
    CausalAttention,
    MultiheadAttention,
    MultiheadLatentAttention,
    MultiheadTemporalLatentAttention,
)
from espnet_mtla.attention.rope import rotary_angles, rotate
from espnet_mtla.benchmark.references import mtla_attention
from espnet_mtla.decoder.graphs import steps_of
from espnet_mtla.decoder.prepacked_linear import prepack_linears

if TYPE_CHECKING:
    from espnet_mtla.benchmark.references import ReferenceAttention
    from espnet_mtla.decoder import DecoderOnlyTransformer


WIDTHS = (
    *("q_lora_rank", "kv_lora_rank", "v_head_dim"),
    *("qk_nope_head_dim", "qk_rope_head_dim"),
)


class StepDecoder(Protocol):
    """One way to decode: the interface that is timed."""

    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` after one more token ``(N,)``."""

    def reorder(self, rows: Tensor) -> None:
        """Continue hypothesis ``rows[i]`` in row i."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of the cache."""


class OwnDecoder:
    """Our decoder and its cache.

    Args:
        decoder: of any attention type.
        prompt: ``(B, P, D)``, all of one length.
        beam: hypotheses per utterance.
        args: options of :mod:`.decode`: steps, back-end, CUDA graphs, prompt copies.
    """

    def __init__(
        self,
        decoder: DecoderOnlyTransformer,
        prompt: Tensor,
        beam: int,
        args: argparse.Namespace,
    ) -> None:
        lengths = torch.full((len(prompt),), prompt.size(1), device=prompt.device)
        with torch.inference_mode():
            self.state = decoder.prefill(
                prompt,
                lengths,
                max_tokens=args.steps,
                beam=beam,
                share_prompt=not args.copy_prompt,
                options=CacheOptions(args.backend, expand_from=args.expand_from),
            )
            self.steps = steps_of(decoder, self.state, args.cuda_graphs)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` after one more token ``(N,)``."""
        return self.steps.step(tokens)

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        """Continue hypothesis ``rows[i]`` in row i."""
        self.steps.reorder(rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated: room for all steps, and the scratch suffix."""
        return self.state.nbytes


class ConcatMultihead(nn.Module):
    """MHA as in fairseq-style decoders; ``mtla`` has no MHA of its own.

    Keys and values of all hypotheses, ``(N, H, T, d)`` each, are extended by ``cat`` in
    every step and reordered by ``index_select``.
    """

    def __init__(self, ours: MultiheadAttention) -> None:
        super().__init__()
        self.ours = ours  # only its projections are used
        self.cached: tuple[Tensor, Tensor] | None = None  # keys and values

    def forward(self, query: Tensor, key: Tensor, position: Tensor) -> Tensor:
        """Attend from ``query (N, 1, D)``, the last of the tokens ``key (N, L, D)``."""
        ours = self.ours
        angles = rotary_angles(position, ours.rope_dim, ours.rope_base, key.dtype)
        angles = angles.unsqueeze(1)
        q = rotate(self._heads(ours.wq(query)), angles[:, :, -1:])
        k, v = rotate(self._heads(ours.wk(key)), angles), self._heads(ours.wv(key))
        if self.cached is not None:
            keys, values = self.cached
            k, v = torch.cat((keys, k), 2), torch.cat((values, v), 2)
        self.cached = k, v
        weights = torch.softmax(q @ k.transpose(2, 3) * ours.scale, dim=-1)
        return ours.wo((weights @ v).transpose(1, 2).flatten(2))

    def reorder(self, rows: Tensor) -> None:
        """Continue hypothesis ``rows[i]`` in row i."""
        if self.cached is not None:
            keys, values = self.cached
            self.cached = keys.index_select(0, rows), values.index_select(0, rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes of keys and values."""
        return sum(part.nbytes for part in self.cached or ())

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.ours.settings.num_heads, -1)).transpose(1, 2)


class ReferenceTemporal(nn.Module):
    """The ``mtla`` package's module and the dictionary of its state."""

    def __init__(self, module: ReferenceAttention) -> None:
        super().__init__()
        self.module = module
        self.state: dict[str, dict[str, Tensor]] = {}

    def forward(self, query: Tensor, key: Tensor, position: Tensor) -> Tensor:
        """Attend from ``query (N, 1, D)``, the last of the tokens ``key (N, L, D)``."""
        return self.module(
            query=query,
            key=key,
            value=key,
            position=position,
            incremental_state=self.state,
        )

    def reorder(self, rows: Tensor) -> None:
        """Continue hypothesis ``rows[i]`` in row i."""
        self.module.reorder_incremental_state(self.state, rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes of latents and rotary keys."""
        (cached,) = self.state.values()
        return sum(cached[name].nbytes for name in ("prev_kv_t", "prev_k_pe"))


class ReferenceDecoder:
    """Our decoder's layers around the reference's attention.

    The prompt does not run through the layers (prompt mode ``fixed``).

    Args:
        decoder: its attention is ``mha`` or ``mtla``.
        prompt: ``(B, P, D)``, all of one length; every hypothesis gets a copy.
        beam: hypotheses per utterance.
    """

    def __init__(
        self, decoder: DecoderOnlyTransformer, prompt: Tensor, beam: int
    ) -> None:
        self.decoder = decoder
        self.attention = [_reference(layer.attention) for layer in decoder.layers]
        self.prompt = prompt.repeat_interleave(beam, dim=0)
        self.num_tokens = 0  # prompt and text

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` after one more token ``(N,)``."""
        decoder, first = self.decoder, self.num_tokens == 0
        x = decoder.embed(tokens.unsqueeze(1))
        new = self.prompt.size(1) + 1 if first else 1
        position = torch.arange(self.num_tokens, self.num_tokens + new, device=x.device)
        position = position.float().unsqueeze(0)
        for layer, attention in zip(decoder.layers, self.attention, strict=True):
            query = layer.attention_norm(x)
            key = query
            if first:
                key = torch.cat((layer.attention_norm(self.prompt), query), dim=1)
            x = layer.feed_forward(x + attention(query, key, position))
        self.num_tokens += new
        return decoder.output(decoder.norm(x))[:, -1]

    @torch.inference_mode()
    def reorder(self, rows: Tensor) -> None:
        """Continue hypothesis ``rows[i]`` in row i."""
        for attention in self.attention:
            attention.reorder(rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the cache with the tokens so far."""
        return sum(attention.nbytes for attention in self.attention)


class WithoutAttention:
    """Our decoder's layers without attention: a lower bound of the time of a step.

    Weights are prepacked as in our decoder.
    """

    nbytes = 0

    def __init__(self, decoder: DecoderOnlyTransformer, rows: int) -> None:
        with torch.inference_mode():
            self.decoder = prepack_linears(decoder, rows)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` of tokens ``(N,)``; earlier ones are ignored."""
        x = self.decoder.embed(tokens)
        for layer in self.decoder.layers:
            x = layer.feed_forward(x)
        return self.decoder.output(self.decoder.norm(x))

    def reorder(self, rows: Tensor) -> None:
        """Do nothing: no state is carried from step to step."""


class ProductsAlone(WithoutAttention):
    """The matrix products of a latent decoder's step: a lower bound of its time.

    These are its projections, the products of queries and prompt entries (one prompt
    per utterance), the weighted sums of the entries, and all of
    :class:`WithoutAttention`. Norms, softmax, cache writes and the entries of the text
    are left out.
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
        self.absorbed = prompt.new_zeros(len(prompt), beam * heads, layout.key_width)
        self.weights = prompt.new_zeros(len(prompt), beam * heads, slots)
        self.queries = prompt.new_zeros(heads, rows, first.settings.qk_nope_head_dim)
        self.sums = prompt.new_zeros(heads, rows, layout.value_width)
        self.attended = prompt.new_zeros(rows, heads * first.settings.v_head_dim)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Compute all products; the logits ``(N, V)`` have no meaning."""
        x = self.decoder.embed(tokens)
        for layer in self.decoder.layers:
            attention = _latent(layer.attention)
            w_k, w_v = attention.up_projections(x)
            attention.wq(x), attention.wkv_a(x)
            self.queries @ w_k
            self.absorbed @ attention.layout.keys(self.entries).mT
            self.weights @ attention.layout.values(self.entries)
            self.sums @ w_v.mT
            x = layer.feed_forward(attention.wo(self.attended))
        return self.decoder.output(x)


def has_reference(attention: CausalAttention) -> bool:
    """Return True for MHA, and for MTLA if the reference's package is installed.

    The reference has neither a raw window nor shifted chunks.
    """
    if isinstance(attention, MultiheadTemporalLatentAttention):
        settings = attention.settings
        plain = settings.raw_window == 0 and not settings.phase
        return plain and mtla_attention(8, 1, 2) is not None
    if isinstance(attention, MultiheadAttention):
        return attention.settings.num_kv_heads == attention.settings.num_heads
    return False


def _latent(attention: CausalAttention) -> MultiheadLatentAttention:
    """Narrow the type; raise TypeError for attention without latents."""
    if not isinstance(attention, MultiheadLatentAttention):
        raise TypeError("ProductsAlone: the decoder has no latents")
    return attention


def _reference(ours: CausalAttention) -> ConcatMultihead | ReferenceTemporal:
    """Return the reference's attention with the weights of ours."""
    if isinstance(ours, MultiheadAttention):
        return ConcatMultihead(ours)
    if isinstance(ours, MultiheadTemporalLatentAttention):
        config = ours.settings
        widths = {name: getattr(config, name) for name in WIDTHS}
        module = mtla_attention(
            config.embed_dim, config.num_heads, config.down_rate, **widths
        )
        assert module is not None, "has_reference() is checked first"
        module.load_state_dict(ours.state_dict(), strict=True)
        parameter = next(ours.parameters())
        return ReferenceTemporal(module.to(parameter.device, parameter.dtype).eval())
    raise TypeError(f"{type(ours).__name__}: the reference has no such attention")

"""Where each layer looks, and how it merges: the weights that decoding never shows.

Letters: ``H`` heads, ``U`` tokens, ``T`` places of the packed row [prompt; text].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from espnet_mtla.attention import (
    CausalAttention,
    MultiheadLatentAttention,
    QueryTokens,
)
from espnet_mtla.attention.inspect import chunk_weights, over_tokens
from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.decoder.layer import DecoderLayer


@dataclass(frozen=True)
class LayerMap:
    """One layer's weights for one utterance.

    ``attention (H, U, T)``: what a token sees of each place. With a stride only the
    last place of a chunk, and the token's own, carry weight. ``merging (T,)``: the
    weight of each place in its chunk's sum; None where nothing is merged.
    """

    attention: Tensor
    merging: Tensor | None
    stride: int


@torch.inference_mode()
def layer_maps(
    decoder: DecoderOnlyTransformer, prompt: Tensor, tokens: Tensor
) -> list[LayerMap]:
    """Run one utterance as in training, and note the weights on the way.

    Args:
        prompt: ``(P, D)``, all valid; tokens: ids that begin with <sos>, ``(U,)``.
    """
    noting = [_Noting(layer) for layer in decoder.layers]
    lengths = torch.tensor([len(prompt)], device=prompt.device)
    text = decoder.embed(tokens.unsqueeze(0))
    decoder.prompt_mode.run(noting, prompt.unsqueeze(0), lengths, text)
    return [one.of_last(len(tokens)) for one in noting]


class _Noting:
    """A layer that keeps its weights; for the prompt mode it is the layer itself."""

    def __init__(self, layer: DecoderLayer) -> None:
        self.layer = layer
        self.noted: LayerMap | None = None

    def of_last(self, count: int) -> LayerMap:
        """With the text's queries alone: a prompt that is recomputed asks too."""
        if self.noted is None:
            raise RuntimeError("the layer has not run")
        return replace(self.noted, attention=self.noted.attention[:, -count:])

    def __call__(self, row: Tensor, query_tokens: QueryTokens) -> Tensor:
        norm, attention = self.layer.attention_norm, self.layer.attention
        x, asked = (
            norm(row),
            QueryTokens(norm(query_tokens.x), query_tokens.query_index),
        )
        stride, merging = attention.layout.stride, None
        if stride > 1 and isinstance(attention, MultiheadLatentAttention):
            merging = merge_weights(attention, x)[0]
        self.noted = LayerMap(
            attention_weights(attention, x, asked)[0],
            merging,
            stride,
        )
        return self.layer(row, query_tokens)


def attention_weights(
    attention: CausalAttention, x: Tensor, query_tokens: QueryTokens
) -> Tensor:
    """What a query sees of each place, ``(B, H, U, T)``, as drawn.

    Args:
        x: normed rows ``(B, T, D)``, packed.
    """
    place, stride = torch.arange(x.size(1), device=x.device), attention.layout.stride
    angles = attention.angles(place.unsqueeze(0), x.dtype)
    entries = attention.entries(x, angles)  # (B, G, T, w)
    q = attention.absorb(attention.queries(query_tokens.x, query_tokens.select(angles)))
    weights = chunk_weights(
        q,
        attention.layout,
        entries[:, :, stride - 1 :: stride],
        query_tokens.select(entries.transpose(1, 2)).transpose(1, 2),
        query_tokens.row_index // stride,
        attention.scale,
    )
    return over_tokens(weights, query_tokens.row_index, stride, x.size(1))


def merge_weights(attention: MultiheadLatentAttention, x: Tensor) -> Tensor:
    """MTLA's weight of each place in its chunk's sum, ``(B, T)``, for ``x (B, T, D)``.

    Read off the entries: a place adds its own latent to the sum, times the weight.
    """
    place = torch.arange(x.size(1), device=x.device)
    angles = attention.angles(place.unsqueeze(0), x.dtype)
    entries = attention.entries(x, angles)[:, 0]  # (B, T, r + d_R)
    rank = attention.layout.value_width
    sums = entries[..., :rank]
    before = torch.nn.functional.pad(sums, (0, 0, 1, 0))[:, :-1]
    opens = (place % attention.layout.stride == 0).unsqueeze(-1)
    added = sums - before.masked_fill(opens, 0.0)
    latent = attention.kv_norm(attention.wkv_a(x)[..., :rank])
    return (added * latent).sum(-1) / latent.square().sum(-1)

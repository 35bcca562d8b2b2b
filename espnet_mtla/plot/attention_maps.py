"""Compute the attention and merge weights of every layer for one utterance.

Training and decoding never form these weights; they are computed here for figures.

Letters: ``B`` utterances, ``H`` heads, ``U`` text tokens, ``P`` prompt frames, ``T``
positions of the packed row [prompt; text], ``r`` latent width, ``d_R`` rotary width.
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
    """Attention and merge weights of one layer for one utterance.

    Attributes:
        attention: attention weights ``(H, U, T)`` of each text token over the row. At
            stride > 1 they lie on the last position of each chunk and on the token
            itself, zero elsewhere.
        merging: merge weight of each position in the sum of its chunk, ``(T,)``; None
            for an attention type without merging.
        stride: positions per chunk.
    """

    attention: Tensor
    merging: Tensor | None
    stride: int


@torch.inference_mode()
def layer_maps(
    decoder: DecoderOnlyTransformer, prompt: Tensor, tokens: Tensor
) -> list[LayerMap]:
    """Run one utterance through the decoder and return the weights of each layer.

    The whole row is computed at once, as in training.

    Args:
        decoder: the model; its results are not changed by recording.
        prompt: frames ``(P, D)`` without padding.
        tokens: ids ``(U,)``, the first one <sos>.
    """
    recorders = [_LayerRecorder(layer) for layer in decoder.layers]
    lengths = torch.tensor([len(prompt)], device=prompt.device)
    text = decoder.embed(tokens.unsqueeze(0))
    decoder.prompt_mode.run(recorders, prompt.unsqueeze(0), lengths, text)
    return [recorder.of_last(len(tokens)) for recorder in recorders]


class _LayerRecorder:
    """Call a decoder layer and record its weights; replaces the layer."""

    def __init__(self, layer: DecoderLayer) -> None:
        self.layer = layer
        self.recorded: LayerMap | None = None

    def of_last(self, count: int) -> LayerMap:
        """Return the map of the last ``count`` queries, which are those of the text.

        A prompt that runs through the layers has queries too, before them.
        """
        if self.recorded is None:
            raise RuntimeError("the layer has not run")
        return replace(self.recorded, attention=self.recorded.attention[:, -count:])

    def __call__(self, row: Tensor, query_tokens: QueryTokens) -> Tensor:
        norm, attention = self.layer.attention_norm, self.layer.attention
        x = norm(row)
        queries = QueryTokens(norm(query_tokens.x), query_tokens.query_index)
        stride, merging = attention.layout.stride, None
        if stride > 1 and isinstance(attention, MultiheadLatentAttention):
            merging = merge_weights(attention, x)[0]
        weights = attention_weights(attention, x, queries)[0]
        self.recorded = LayerMap(weights, merging, stride)
        return self.layer(row, query_tokens)


def attention_weights(
    attention: CausalAttention, x: Tensor, query_tokens: QueryTokens
) -> Tensor:
    """Compute attention weights over the positions of a row, ``(B, H, U, T)``.

    Args:
        attention: the layer's attention.
        x: rows ``(B, T, D)`` after the layer's norm, packed without padding.
        query_tokens: the tokens whose weights are computed.
    """
    position, stride = torch.arange(x.size(1), device=x.device), attention.layout.stride
    angles = attention.angles(position.unsqueeze(0), x.dtype)
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
    """Compute MTLA's merge weight of each position, ``(B, T)``, for ``x (B, T, D)``.

    The entry of position t holds the sum of its chunk up to t. The difference to the
    entry before is the latent of t times its weight, so that projecting the difference
    onto the latent gives the weight.
    """
    position = torch.arange(x.size(1), device=x.device)
    angles = attention.angles(position.unsqueeze(0), x.dtype)
    entries = attention.entries(x, angles)[:, 0]  # (B, T, r + d_R)
    rank = attention.layout.value_width
    sums = entries[..., :rank]
    before = torch.nn.functional.pad(sums, (0, 0, 1, 0))[:, :-1]
    opens = (position % attention.layout.stride == 0).unsqueeze(-1)
    added = sums - before.masked_fill(opens, 0.0)
    latent = attention.kv_norm(attention.wkv_a(x)[..., :rank])
    return (added * latent).sum(-1) / latent.square().sum(-1)

"""The weights that are drawn are those that the model uses."""

from __future__ import annotations

import pytest
import torch

from espnet_mtla.attention import QueryTokens, build_attention
from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.plot.attention_maps import attention_weights, layer_maps, merge_weights
from espnet_mtla.plot.utterance import over_chunks

TYPES = [
    *(("mha", {}), ("gqa", {}), ("mla", {})),
    *(
        ("mtla", {"down_rate": 1}),
        ("mtla", {"down_rate": 2}),
        ("mtla", {"down_rate": 3}),
    ),
]


def attention_of(name, conf):
    torch.manual_seed(0)
    return build_attention(name, 32, 4, 0.0, conf).double().eval()


@pytest.mark.parametrize(("name", "conf"), TYPES, ids=str)
def test_weights_times_values_are_the_output(name, conf):
    attention = attention_of(name, conf)
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    query_tokens = QueryTokens(x[:, 6:], torch.arange(6, 11).unsqueeze(0))
    with torch.no_grad():
        weights = attention_weights(attention, x, query_tokens)
        angles = attention.angles(torch.arange(11)[None], x.dtype)
        values = attention.layout.values(attention.entries(x, angles))
        groups = weights.unflatten(1, (values.size(1), -1))
        out = (groups @ values.unsqueeze(2)).flatten(1, 2)
        out = attention.project_out(attention.up_project(out))
        torch.testing.assert_close(out, attention.attend_all(x, query_tokens))
    assert weights.shape == (2, 4, 5, 11)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5).double())
    assert not weights[:, :, 0, 7:].any(), "nobody sees what is to come"


@pytest.mark.parametrize("stride", [2, 3])
def test_merge_weights_are_the_hyper_networks(stride):
    attention = attention_of("mtla", {"down_rate": stride})
    x = torch.randn(2, 8, 32, dtype=torch.float64)
    with torch.no_grad():
        weights = merge_weights(attention, x)
        rank = attention.layout.value_width
        latent = attention.kv_norm(attention.wkv_a(x)[..., :rank])
        angles = attention.angles(torch.arange(8)[None], x.dtype)
        merged = attention.entries(x, angles)[:, 0, :, :rank]
    assert ((weights > 0) & (weights < 1)).all()
    for place in range(8):
        first = place // stride * stride
        parts = weights[:, first : place + 1, None] * latent[:, first : place + 1]
        torch.testing.assert_close(parts.sum(1), merged[:, place])


@pytest.mark.parametrize("mode", ["fixed", "recompute"])
def test_every_layer_is_noted_and_nothing_changes(mode):
    torch.manual_seed(0)
    config = DecoderConfig(
        *(20, 32, 3, 4, 16),
        attention="mtla",
        prompt_mode=mode,
    )
    decoder = DecoderOnlyTransformer(config).eval()
    prompt, tokens = torch.randn(7, 32), torch.tensor([19, 3, 4, 5])
    length = torch.tensor([7])
    before = decoder(prompt[None], length, tokens[None])
    maps = layer_maps(decoder, prompt, tokens)
    torch.testing.assert_close(before, decoder(prompt[None], length, tokens[None]))
    assert [one.attention.shape for one in maps] == [(4, 4, 11)] * 3
    assert all(one.merging.shape == (11,) and one.stride == 2 for one in maps)


def test_chunks_are_spread_over_their_places():
    weights = torch.tensor([[0.0, 0.6, 0.0, 0.4, 0.0]])
    spread = over_chunks(weights, 2)
    torch.testing.assert_close(spread, torch.tensor([[0.3, 0.3, 0.2, 0.2, 0.0]]))
    assert over_chunks(weights, 1) is weights

"""``output_attentions``: what is computed with, at the batch's own columns."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from espnet_mtla.hf.convert.build import Target, convert
from test.support.tiny_llama import cache_of, left_padded, tiny, tokens


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def shown(model, batch, **kwargs) -> torch.Tensor:
    """``(layers, B, H, L, columns)``."""
    return torch.stack(model(batch, output_attentions=True, **kwargs).attentions)


@settings(max_examples=20)
@given(stride=st.integers(1, 4), use_cache=st.booleans(), data=st.data())
def test_padding_anywhere_gets_nothing(stride, use_cache, data) -> None:
    model, batch = tiny(stride), tokens(2, 9)
    pattern = st.lists(st.booleans(), min_size=9, max_size=9).filter(any)
    real = torch.tensor([data.draw(pattern) for _ in batch])
    with torch.no_grad():
        found = model(
            batch,
            attention_mask=real.long(),
            use_cache=use_cache,
            output_attentions=True,
        )
        usual = model(batch, attention_mask=real.long(), use_cache=use_cache).logits
        weights = torch.stack(found.attentions)
        assert weights.shape == (2, 2, 4, 9, 9)
        close(found.logits, usual)
        for row in range(2):
            alone = shown(model, batch[row, real[row]][None])[:, 0]
            own = weights[:, row]
            close(own[:, :, real[row]][..., real[row]], alone)
            assert not own[..., ~real[row]].any()
            assert not own[:, :, ~real[row]].any()
            close(alone.sum(-1), torch.ones_like(alone.sum(-1)))


@settings(max_examples=20)
@given(stride=st.integers(1, 4), cuts=st.sets(st.integers(1, 10)), static=st.booleans())
def test_pieces_show_what_the_whole_does(stride, cuts, static) -> None:
    model = tiny(stride)
    batch, mask = left_padded([tokens(1, 11, 3)[0], tokens(1, 7, 4)[0]])
    kind = type(cache_of(model(batch[:, :1])))
    cache = kind(model.config, 13 if static else None, static=static)
    edges = [0, *sorted(cuts), 11]
    with torch.no_grad():
        whole = model(batch, attention_mask=mask, output_attentions=True)
        for start, stop in pairwise(edges):
            part = model(
                batch[:, start:stop],
                attention_mask=mask[:, :stop],
                cache=cache,
                output_attentions=True,
            )
            for ours, all_of_them in zip(
                part.attentions, whole.attentions, strict=True
            ):
                assert ours.shape == (2, 4, stop - start, 13 if static else stop)
                close(ours[..., :stop], all_of_them[:, :, start:stop, :stop])
                assert not ours[..., stop:].any()
            real = mask[:, start:stop].bool()
            close(part.logits[real], whole.logits[:, start:stop][real])


@pytest.mark.parametrize("stride", [2, 3])
def test_merged_tokens_carry_no_weight_and_weights_make_the_output(stride) -> None:
    model, batch = tiny(stride), tokens(1, 10)
    with torch.no_grad():
        weights = shown(model, batch)[0, 0]  # of the first layer
        attention = model.model.layers[0].self_attn
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(batch))
        angles = attention.angles(torch.arange(10)[None], x.dtype)
        entries = attention.layout.values(attention.entries(x, angles))[0, 0]
        out = attention.project_out(attention.up_project((weights @ entries)[None]))
        close(out, attention.attend_all(x, angles=angles))
    token = torch.arange(10)
    seen = ((token + 1) % stride == 0) & (token < token[:, None])
    seen |= token == token[:, None]
    assert torch.equal(weights > 0, seen.expand_as(weights))


def test_a_converted_llama_looks_where_the_llama_looked() -> None:
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation="eager",
        )
    )
    llama = llama.double().eval()
    model, _ = convert(llama, Target("mtla", down_rate=1))
    batch, mask = left_padded([tokens(1, 9, 5)[0], tokens(1, 6, 6)[0]])
    with torch.no_grad():
        ours = shown(model, batch, attention_mask=mask)
        for row, padding in enumerate((0, 3)):
            alone = llama(batch[row : row + 1, padding:], output_attentions=True)
            theirs = torch.stack(alone.attentions)[:, 0]
            close(ours[:, row, :, padding:, padding:], theirs, 1e-6)


def test_documents_of_a_row_do_not_see_each_other() -> None:
    model, batch = tiny(2), tokens(1, 9)
    position = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    with torch.no_grad():
        weights = shown(model, batch, position_ids=position, use_cache=False)
        close(weights[..., :5, :5], shown(model, batch[:, :5]))
        close(weights[..., 5:, 5:], shown(model, batch[:, 5:]))
    assert not weights[..., 5:, :5].any()
    assert not weights[..., :5, 5:].any()


def test_gradients_reach_the_weights() -> None:
    model, batch = tiny(2), tokens(2, 7)
    found = model(batch, output_attentions=True)
    for weights in found.attentions:
        weights.retain_grad()
    found.logits.square().sum().backward()
    for weights in found.attentions:
        assert weights.grad.abs().sum() > 0
    grads = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    model(batch).logits.square().sum().backward()
    for name, value in model.named_parameters():
        close(grads[name], value.grad, 1e-8)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cache", ["dynamic", "static", None])
def test_generate_shows_each_step(beams: int, cache: str | None) -> None:
    model = tiny(2)
    batch, mask = left_padded([tokens(1, 6, 7)[0], tokens(1, 4, 8)[0]])
    found = model.generate(
        batch,
        attention_mask=mask,
        max_new_tokens=5,
        num_beams=beams,
        do_sample=False,
        use_cache=cache is not None,
        cache_implementation=cache,
        disable_compile=True,
        return_dict_in_generate=True,
        output_attentions=True,
    )
    assert len(found.attentions) == 5
    for step, layers in enumerate(found.attentions):
        asked = 1 if step and cache else 6 + step
        width = layers[0].size(-1)
        assert [tuple(one.shape) for one in layers] == [
            (2 * beams, 4, asked, width)
        ] * 2
        assert width == 10 if cache == "static" else width == 6 + step
        newest = torch.stack(layers)[:, :, :, -1]  # the last that asks
        close(newest.sum(-1), torch.ones_like(newest.sum(-1)))
        assert not newest[:, beams:, :, :2].any(), "padding"

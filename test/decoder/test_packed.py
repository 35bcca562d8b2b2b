"""Packed weights: the same logits, for many rows on a CPU alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.decoder.graphs import EagerSteps, steps_of
from espnet_mtla.decoder.prepacked_linear import LEAST_ROWS, prepack_linears
from test.support.attention_types import WIDTH
from test.support.tiny_decoder import VOCAB, make

BEAM = LEAST_ROWS // 2


def prefilled(decoder: DecoderOnlyTransformer):
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randn(2, 7, WIDTH, generator=generator)
    return decoder.prefill(prompt, torch.tensor([7, 5]), max_tokens=4, beam=BEAM)


@pytest.mark.parametrize("kind", ["mha", "mtla_s2", "llama/gqa_llama"])
@torch.inference_mode()
def test_packed_steps_give_the_same_logits(kind: str) -> None:
    decoder = make(kind, "fixed").float()
    plain = EagerSteps(decoder, prefilled(decoder))
    steps = steps_of(decoder, prefilled(decoder), "never")
    assert steps.decoder is not decoder
    for rows in (2 * BEAM, 2 * BEAM, BEAM, BEAM):  # an utterance leaves
        tokens = torch.arange(rows) % VOCAB
        torch.testing.assert_close(steps.step(tokens), plain.step(tokens))
        if rows > BEAM and plain.state.timeline.appended == 2:
            for each in (steps, plain):
                each.select(torch.tensor([1]))


@torch.no_grad()
def test_parameters_are_shared_and_the_module_stays_as_it_was() -> None:
    decoder = make("mtla_s2", "fixed").float()
    before = [type(module) for module in decoder.modules()]
    twin = prepack_linears(decoder, LEAST_ROWS)
    assert [type(module) for module in decoder.modules()] == before
    assert nn.Linear not in {type(module) for module in twin.modules()}
    theirs = {p.data_ptr() for p in twin.parameters()}
    assert theirs == {p.data_ptr() for p in decoder.parameters()}


def test_few_rows_other_types_and_gradients_go_the_plain_road() -> None:
    decoder = make("mtla_s2", "fixed")
    with torch.no_grad():
        assert prepack_linears(decoder, LEAST_ROWS) is decoder  # float64
        single = decoder.float()
        assert prepack_linears(single, LEAST_ROWS - 1) is single
        assert prepack_linears(single, LEAST_ROWS) is not single
    assert prepack_linears(single, LEAST_ROWS) is single


@torch.no_grad()
def test_a_part_that_was_registered_as_none_stays_none() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    module.register_module("norm", None)
    twin = prepack_linears(module, LEAST_ROWS)
    assert twin._modules["norm"] is None
    assert type(twin[0]) is not nn.Linear


def halved(decoder: DecoderOnlyTransformer) -> None:
    for layer in decoder.layers:
        layer.ffn[3].register_forward_hook(lambda *call: 0.5 * call[-1])


def patched(decoder: DecoderOnlyTransformer) -> None:
    """As accelerate does: another ``forward`` on the object."""
    for linear in (decoder.output, decoder.layers[0].attention.wo):
        old = linear.forward
        linear.forward = lambda x, old=old: -2 * old(x)


def parametrized(decoder: DecoderOnlyTransformer) -> None:
    for linear in (decoder.layers[0].ffn[0], decoder.layers[1].attention.wkv_b):
        parametrizations.weight_norm(linear)
        with torch.no_grad():
            linear.parametrizations.weight.original0.mul_(2)


def pruned(decoder: DecoderOnlyTransformer) -> None:
    for linear in (decoder.layers[0].ffn[0], decoder.layers[1].attention.wkv_b):
        prune.random_unstructured(linear, "weight", 0.5)
        with torch.no_grad():
            linear.weight_orig.mul_(2)


@pytest.mark.parametrize("change", [halved, patched, parametrized, pruned])
@torch.no_grad()
def test_layers_that_are_more_than_a_weight_are_called(change: Callable) -> None:
    decoder = make("mtla_s2", "fixed").float()
    tokens = torch.arange(2 * BEAM) % VOCAB
    unchanged = decoder.step(tokens, prefilled(decoder))
    change(decoder)
    steps = steps_of(decoder, prefilled(decoder), "never")
    assert steps.decoder is not decoder
    expected = decoder.step(tokens, prefilled(decoder))
    torch.testing.assert_close(steps.step(tokens), expected)
    assert not torch.allclose(expected, unchanged, atol=1e-2)


def loaded(decoder: DecoderOnlyTransformer, assign: bool) -> None:
    state = {name: 1.5 * value for name, value in decoder.state_dict().items()}
    decoder.load_state_dict(state, assign=assign)


def optimised(decoder: DecoderOnlyTransformer) -> None:
    with torch.enable_grad():
        prompt, tokens = torch.randn(1, 3, WIDTH), torch.zeros(1, 2, dtype=torch.long)
        decoder(prompt, torch.tensor([3]), tokens).square().mean().backward()
    torch.optim.SGD(decoder.parameters(), 10.0).step()


def replaced(decoder: DecoderOnlyTransformer) -> None:
    for parameter in decoder.parameters():
        parameter.data = 1.5 * parameter.data


EDITS: dict[str, Callable[[DecoderOnlyTransformer], object]] = {
    "load_state_dict": lambda decoder: loaded(decoder, assign=False),
    "assign": lambda decoder: loaded(decoder, assign=True),
    "optimiser": optimised,
    "in place": lambda decoder: [p.mul_(1.5) for p in decoder.parameters()],
    "data": replaced,
    "to and fro": lambda decoder: decoder.half().float(),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@torch.no_grad()
def test_weights_that_change_between_steps_are_packed_again(edit: Callable) -> None:
    decoder = make("mtla_s2", "fixed").float()
    twin, tokens = prepack_linears(decoder, LEAST_ROWS), torch.arange(2 * BEAM) % VOCAB
    before = twin.step(tokens, prefilled(twin))
    edit(decoder)
    after = twin.step(tokens, prefilled(decoder))
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, decoder.step(tokens, prefilled(decoder)))

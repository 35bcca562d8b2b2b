"""Packed weights: the same logits, for many rows on a CPU alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.decoder.graphs import EagerSteps, steps_of
from espnet_mtla.decoder.packed import LEAST_ROWS, packed
from test.attention.common import WIDTH
from test.decoder.test_decoder import VOCAB, make

BEAM = LEAST_ROWS // 2


def prefilled(decoder: DecoderOnlyTransformer):
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randn(2, 7, WIDTH, generator=generator)
    return decoder.prefill(prompt, torch.tensor([7, 5]), max_tokens=4, beam=BEAM)


@pytest.mark.parametrize("kind", ["mha", "mtla_s2"])
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
    twin = packed(decoder, LEAST_ROWS)
    assert [type(module) for module in decoder.modules()] == before
    assert nn.Linear not in {type(module) for module in twin.modules()}
    theirs = {p.data_ptr() for p in twin.parameters()}
    assert theirs == {p.data_ptr() for p in decoder.parameters()}


def test_few_rows_other_types_and_gradients_go_the_plain_road() -> None:
    decoder = make("mtla_s2", "fixed")
    with torch.no_grad():
        assert packed(decoder, LEAST_ROWS) is decoder  # float64
        single = decoder.float()
        assert packed(single, LEAST_ROWS - 1) is single
        assert packed(single, LEAST_ROWS) is not single
    assert packed(single, LEAST_ROWS) is single


@torch.no_grad()
def test_a_part_that_was_registered_as_none_stays_none() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    module.register_module("norm", None)
    twin = packed(module, LEAST_ROWS)
    assert twin._modules["norm"] is None
    assert type(twin[0]) is not nn.Linear

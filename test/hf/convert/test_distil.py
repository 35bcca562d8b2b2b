"""Healing by distillation: loss, gradients and perplexity afterwards."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from transformers import LlamaForCausalLM

from espnet_mtla.hf.convert import original as original_module
from espnet_mtla.hf.convert.build import Target, convert
from espnet_mtla.hf.convert.heal import Healing
from espnet_mtla.hf.convert.original import Original, divergence
from espnet_mtla.hf.convert.text import TextBlocks, perplexity


def test_the_divergence_is_the_mean_over_tokens_of_its_definition() -> None:
    torch.manual_seed(0)
    new, old = torch.randn(2, 2, 3, 7, dtype=torch.float64)
    total = 0.0
    for row in range(2):
        for token in range(3):
            p = old[row, token].exp() / old[row, token].exp().sum()
            q = new[row, token].exp() / new[row, token].exp().sum()
            total += sum(
                float(a) * math.log(float(a) / float(b))
                for a, b in zip(p, q, strict=True)
            )
    assert float(divergence(new, old)) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("limit", [2**30, 0], ids=["cached", "not cached"])
def test_the_originals_logits_are_the_models(trained, monkeypatch, limit: int) -> None:
    monkeypatch.setattr(original_module, "CACHE_BYTES", limit)
    _, model, text = trained
    original = Original(model, text.training)
    calls = []
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        for pick in (torch.tensor([3, 1, 3]), torch.tensor([1, 3])):
            got = original.logits(pick)
            assert not got.requires_grad
            with torch.no_grad():
                hidden = model.model(text.training[pick]).last_hidden_state
                expected = model.lm_head(hidden)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    finally:
        hook.remove()
    # Two calls are the test's own; a cached block is not run again.
    assert len(calls) - 2 == (1 if limit else 2)


def heal(trained: tuple, steps: int, distil: float) -> tuple[float, float]:
    """Return perplexity and divergence from the original after MTLA and healing."""
    _, model, text = trained
    converted, _ = convert(model, Target("mtla", 2, 8, 8, 32), text.training)
    original = Original(model, text.training)
    Healing(steps, 8, 3e-3, distil).run(converted, text.training, original)
    seen = text.training[:16]  # of other text the small model knows too little
    with torch.no_grad():
        apart = divergence(converted(seen).logits, model(seen).logits)
    return perplexity(converted, seen), float(apart)


def test_distillation_approaches_the_original_and_leaves_it_as_it_is(
    trained: tuple[object, LlamaForCausalLM, TextBlocks],
) -> None:
    before = copy.deepcopy(trained[1].state_dict())
    _, unhealed = heal(trained, 0, 1.0)
    _, plain = heal(trained, 80, 0.0)
    _, distilled = heal(trained, 80, 1.0)
    assert distilled < 0.8 * unhealed
    assert distilled < plain
    for name, weight in trained[1].state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_the_weight_mixes_both_losses(trained) -> None:
    _, model, text = trained
    converted, _ = convert(model, Target("mtla", 2, 16, 8, 32), text.training)
    pick = torch.tensor([0, 2])
    part, original = text.training[pick], Original(model, text.training)
    ours, old = converted(part), model(part).logits
    text_loss = converted(part, labels=part).loss
    expected = 0.25 * divergence(ours.logits, old) + 0.75 * text_loss
    got = Healing(1, distil=0.25)._loss(converted, text.training, pick, original)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("distil", [0.0, 1.0])
def test_attention_alone_can_be_trained(trained, distil: float) -> None:
    _, model, text = trained
    converted, _ = convert(model, Target("mtla", 2, 8, 8, 32), text.training)
    before = copy.deepcopy(converted.state_dict())
    original = Original(model, text.training)
    Healing(3, 2, 3e-3, distil, "attention").run(converted, text.training, original)
    for name, weight in converted.state_dict().items():
        same = torch.equal(weight, before[name])
        assert same == (".self_attn." not in name), name
    assert all(weight.requires_grad for weight in converted.parameters())


def test_few_steps_warm_up_for_a_third_of_them() -> None:
    rates = [Healing(6)._rate(step) for step in range(6)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert [Healing(1000)._rate(step) for step in (0, 24, 49)] == [0.02, 0.5, 1.0]

"""Half precision by torch's own methods: of the decoder, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from test.support.tiny_recipes import noise, tiny

LABELS = torch.tensor([[3, 4, 2, 5], [6, 3, -100, -100]])
WAYS = {
    "half": (lambda model: model.half(), torch.float16),
    "bfloat16": (lambda model: model.bfloat16(), torch.bfloat16),
    "to dtype": (lambda model: model.to(torch.float16), torch.float16),
    "to both": (lambda model: model.to("cpu", dtype=torch.bfloat16), torch.bfloat16),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_computes_the_same_within_its_precision(way: str) -> None:
    convert, dtype = WAYS[way]
    model = tiny(normalize="utterance_mvn")
    tokens = torch.tensor([[10, 3, 4], [10, 5, 6]])
    with torch.no_grad():
        expected = model(noise(), decoder_input_ids=tokens).logits
        loss = model(noise(), labels=LABELS).loss
    assert convert(model) is model
    assert model.speech.decoder.output.weight.dtype == dtype
    others = [p for n, p in model.named_parameters() if "decoder" not in n]
    assert {p.dtype for p in others} == {torch.float32}
    with torch.no_grad():
        logits = model(noise(), decoder_input_ids=tokens).logits
        half_loss = model(noise(), labels=LABELS).loss
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.3)
    torch.testing.assert_close(half_loss.float(), loss, rtol=0.05, atol=0.1)
    assert model.generate(noise(samples=8000)).shape[0] == 2
    model(noise(), labels=LABELS).loss.backward()
    assert torch.isfinite(model.speech.decoder.output.weight.grad).all()


def test_back_to_single_precision() -> None:
    model = tiny().half().float()
    assert {p.dtype for p in model.parameters()} == {torch.float32}

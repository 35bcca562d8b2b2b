"""A pretrained decoder computes what the model of Transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.hf.decoder.settings import PretrainedDecoder
from test.support.real_weights import real_weights
from test.support.tiny_checkpoints import CHECKPOINTS, save_tiny

PROMPT = 7


def load(folder: Path | str, model: PreTrainedModel, **conf) -> DecoderOnlyTransformer:
    return PretrainedDecoder(str(folder), **conf).load(model.config.vocab_size).eval()


def tokens_for(model: PreTrainedModel, rows: int, length: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(1, model.config.vocab_size, (rows, length))  # 0 pads


def check_logits(got: Tensor, expected: Tensor, largest: float) -> None:
    """Compare to 1e-5 of the largest logit."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * largest)


@torch.no_grad()
def check_equal(
    decoder: DecoderOnlyTransformer, model: PreTrainedModel, tokens: Tensor
) -> None:
    """In one pass, after a prompt, without a prompt, and token by token."""
    expected = model(tokens).logits
    largest = float(expected.abs().max())
    lengths = torch.full((len(tokens),), PROMPT)
    prompt, text = decoder.embed(tokens[:, :PROMPT]), tokens[:, PROMPT:]
    check_logits(decoder(prompt, lengths, text), expected[:, PROMPT:], largest)
    check_logits(decoder(prompt[:, :0], 0 * lengths, tokens), expected, largest)
    state = decoder.prefill(prompt, lengths, max_tokens=text.size(1), beam=2)
    for index, token in enumerate(text.T):
        logits = decoder.step(token.repeat_interleave(2), state)
        for beam in (logits[::2], logits[1::2]):
            check_logits(beam, expected[:, PROMPT + index], largest)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, name)
    check_equal(load(tmp_path, model), model, tokens_for(model, 2, 60))


@torch.no_grad()
def test_greedy_tokens_are_those_of_generate(tmp_path: Path) -> None:
    model = save_tiny(tmp_path, "qwen3")
    decoder, tokens = load(tmp_path, model), tokens_for(model, 3, PROMPT + 1)
    expected = model.generate(
        tokens, max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    lengths = torch.full((3,), PROMPT)
    state = decoder.prefill(decoder.embed(tokens[:, :-1]), lengths, max_tokens=20)
    last, written = tokens[:, -1], [tokens]
    for _ in range(20):
        last = decoder.step(last, state).argmax(-1)
        written.append(last[:, None])
    assert torch.equal(torch.cat(written, 1), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_become_float32(dtype, tmp_path: Path, caplog) -> None:
    model = save_tiny(tmp_path, "llama").to(dtype)
    model.save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        decoder = load(tmp_path, model)
    assert f"weights of {dtype} are loaded as float32" in caplog.text
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    same = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    check_equal(decoder, same.eval(), tokens_for(model, 2, 20))


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_embeddings_are_tied_as_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, name)
    decoder = load(tmp_path, model)
    assert (decoder.output.weight is decoder.embedding.weight) == (name == "llama_tied")
    counts = [sum(p.numel() for p in each.parameters()) for each in (decoder, model)]
    assert counts[0] == counts[1]


def test_loading_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    model = save_tiny(tmp_path, "llama")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load(tmp_path, model)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.real_weights
@torch.no_grad()
def test_real_weights() -> None:
    folder = real_weights("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens, lengths = tokens_for(model, 1, 300), torch.tensor([200])
    decoder = load(folder, model)
    assert decoder.config.attention == "gqa"
    expected = model(tokens).logits[:, 200:]
    largest = float(expected.abs().max())
    prompt, text = decoder.embed(tokens[:, :200]), tokens[:, 200:]
    check_logits(decoder(prompt, lengths, text), expected, largest)
    state = decoder.prefill(prompt, lengths, max_tokens=100)
    steps = torch.stack([decoder.step(token, state) for token in text.T], 1)
    check_logits(steps, expected, largest)

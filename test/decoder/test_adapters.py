"""peft and accelerate on the attention and the decoder by themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from espnet_mtla.attention import (
    MultiheadTemporalLatentAttention,
    MultiheadTemporalLatentCrossAttention,
)
from espnet_mtla.decoder.graphs import steps_of
from espnet_mtla.decoder.prepacked_linear import LEAST_ROWS
from test.support.attention_types import LATENT, WIDTH
from test.support.tiny_decoder import KINDS, VOCAB, make, ragged

SAME = {"rtol": 0.0, "atol": 1e-10}


@torch.no_grad()
def adapted(module: nn.Module, **settings: object) -> nn.Module:
    """The module with a LoRA, in its own type, on every linear layer of attention."""
    peft = pytest.importorskip("peft")
    parts = module.named_modules()
    linear = [name for name, part in parts if type(part) is nn.Linear]
    config = peft.LoraConfig(r=3, target_modules=linear, **settings)
    dtype = next(module.parameters()).dtype
    model = peft.get_peft_model(module, config).to(dtype)
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def all_have_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_attention_by_the_references_call(stride: int, bias: bool, dora: bool) -> None:
    torch.manual_seed(1)
    module = MultiheadTemporalLatentAttention(
        WIDTH, 4, down_rate=stride, bias=bias, **LATENT
    )
    model = adapted(module.double(), use_dora=dora)
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    whole = model(query=x, key=x)
    whole.square().sum().backward()
    all_have_gradients(model)
    state: dict = {}
    steps = [
        model(query=x[:, a:b], key=x[:, a:b], incremental_state=state)
        for a, b in ((0, 4), (4, 5), (5, 8), (8, 9))
    ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, **SAME)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(query=x, key=x), whole, **SAME)


def test_cross_attention() -> None:
    torch.manual_seed(1)
    sizes = {k: v for k, v in LATENT.items() if k != "qk_rope_head_dim"}
    module = MultiheadTemporalLatentCrossAttention(WIDTH, 4, **sizes).double()
    model = adapted(module)
    query = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    memory = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    out = model(query=query, key=memory)
    out.square().sum().backward()
    all_have_gradients(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(query=query, key=memory), out, **SAME)


@torch.no_grad()
def steps(decoder: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    prompt, lengths, tokens = batch
    state = decoder.prefill(prompt, lengths, max_tokens=tokens.size(1))
    return torch.stack([decoder.step(token, state) for token in tokens.T], 1)


@pytest.mark.parametrize("mode", ["fixed", "recompute"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_trains_steps_and_merges(kind: str, mode: str) -> None:
    plain = make(kind, mode)
    model, batch = adapted(copy.deepcopy(plain)), ragged([6, 4], 5)
    whole = model.train()(*batch)
    whole.square().sum().backward()
    all_have_gradients(model)
    whole = model.eval()(*batch)
    assert (whole - plain(*batch)).abs().max() > 0.1
    torch.testing.assert_close(steps(model, batch), whole, **SAME)
    with model.disable_adapter():
        torch.testing.assert_close(steps(model, batch), plain(*batch), **SAME)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(*batch), whole, **SAME)


@torch.no_grad()
def test_packed_steps_with_adapters() -> None:
    """Many rows on a CPU in float32: plain layers are packed, adapters are called."""
    decoder = make("mtla_s2", "fixed").float()
    model = adapted(decoder).eval()
    prompt = torch.randn(2, 7, WIDTH)
    given = {"max_tokens": 2, "beam": LEAST_ROWS}
    lengths, tokens = torch.tensor([7, 5]), torch.arange(2 * LEAST_ROWS) % VOCAB
    expected = decoder.step(tokens, decoder.prefill(prompt, lengths, **given))
    fast = steps_of(decoder, decoder.prefill(prompt, lengths, **given), "never")
    assert fast.decoder is not decoder
    torch.testing.assert_close(fast.step(tokens), expected, rtol=0, atol=1e-4)
    with model.disable_adapter():
        other = decoder.step(tokens, decoder.prefill(prompt, lengths, **given))
    assert (other - expected).abs().max() > 0.1


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_an_offloaded_decoder(tied: bool) -> None:
    """A step of many rows too, which packs what is in memory."""
    accelerate = pytest.importorskip("accelerate")
    decoder = make("mtla_s2", "fixed", tie_embeddings=tied).float()
    prompt, lengths, tokens = ragged([7, 5], 5)
    batch = (prompt.float(), lengths, tokens)
    away = accelerate.cpu_offload(copy.deepcopy(decoder), torch.device("cpu"))
    assert away.layers[0].attention.wkv_b.weight.is_meta
    near = {"rtol": 0.0, "atol": 1e-4}
    torch.testing.assert_close(away(*batch), decoder(*batch), **near)
    torch.testing.assert_close(steps(away, batch), decoder(*batch), **near)
    many = torch.arange(2 * LEAST_ROWS) % VOCAB
    given = {"max_tokens": 2, "beam": LEAST_ROWS}
    logits = [
        steps_of(each, each.prefill(*batch[:2], **given), "never").step(many)
        for each in (away, decoder)
    ]
    torch.testing.assert_close(*logits, **near)

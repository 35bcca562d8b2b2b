"""Against the public ``mtla`` package: state dicts both ways, outputs to 1e-5."""

from __future__ import annotations

import inspect
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn

from espnet_mtla.attention import MultiheadTemporalLatentAttention
from test.support.attention_types import HEADS, LATENT, WIDTH
from test.support.reference_package import load_peer

CLOSE = {"rtol": 0.0, "atol": 1e-5}
strides = pytest.mark.parametrize("stride", [1, 2, 3, 4])
ranks = pytest.mark.parametrize("q_lora_rank", [0, 12])


def pair(
    stride: int, q_lora_rank: int, bias: bool = False
) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    conf = {**LATENT, "down_rate": stride, "q_lora_rank": q_lora_rank, "bias": bias}
    peer_type = load_peer("mtla/MTLA.py").MultiheadTemporalLatentAttention
    peer = peer_type(WIDTH, HEADS, **conf).eval()
    ours = MultiheadTemporalLatentAttention(WIDTH, HEADS, **conf).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    peer.load_state_dict(ours.state_dict(), strict=True)
    return ours, peer


def test_the_constructor_takes_what_the_reference_takes_in_its_order() -> None:
    peer = load_peer("mtla/MTLA.py").MultiheadTemporalLatentAttention
    theirs = inspect.signature(peer.__init__).parameters.values()
    ours = inspect.signature(MultiheadTemporalLatentAttention.__init__).parameters
    given = [(p.name, p.default) for p in theirs]
    positional = [p for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in positional] == given
    module = MultiheadTemporalLatentAttention(WIDTH, HEADS, 0.25, True)
    assert module.dropout == 0.25 and module.wo.bias is not None


def call(module: nn.Module, x: Tensor, first: int, last: int, state: dict | None):
    """The last token of ``x[:, first:last]`` asks, or with no state all of them."""
    part = x[:, first:last]
    position = torch.arange(first, last).float().unsqueeze(0)
    query = part if state is None or module.recompute_prompt_attn else part[:, -1:]
    return module(
        query=query, key=part, value=part, position=position, incremental_state=state
    )


@strides
@ranks
def test_training(stride: int, q_lora_rank: int) -> None:
    ours, peer = pair(stride, q_lora_rank)
    for tokens in range(1, 4 * stride + 2):
        x = torch.randn(2, tokens, WIDTH)
        torch.testing.assert_close(
            call(ours, x, 0, tokens, None), call(peer, x, 0, tokens, None), **CLOSE
        )


@strides
def test_training_with_a_bias_and_text_alone_asking(stride: int) -> None:
    ours, peer = pair(stride, 0, bias=True)
    x, position = torch.randn(2, 9, WIDTH), torch.arange(9).float().unsqueeze(0)
    for asked in (1, 3, 8):
        given = {"query": x[:, -asked:], "key": x, "value": x, "position": position}
        torch.testing.assert_close(ours(**given), peer(**given), **CLOSE)


@pytest.mark.parametrize("stride", [2, 3, 4])
@ranks
@pytest.mark.parametrize("recompute", [False, True], ids=["fixed", "recompute"])
def test_prefill_then_step(stride: int, q_lora_rank: int, recompute: bool) -> None:
    ours, peer = pair(stride, q_lora_rank)
    ours.recompute_prompt_attn = peer.recompute_prompt_attn = recompute
    tokens = 3 * stride + 2
    x = torch.randn(2, tokens, WIDTH)
    for prompt in range(1, tokens):
        states: tuple[dict, dict] = {}, {}
        cuts = [0, prompt, *range(prompt + 1, tokens + 1)]
        for first, last in pairwise(cuts):
            a = call(ours, x, first, last, states[0])
            b = call(peer, x, first, last, states[1])
            torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("stride", [2, 3])
def test_reordered_rows_go_on_as_the_peer(stride: int) -> None:
    ours, peer = pair(stride, 0)
    x, order = torch.randn(3, 8, WIDTH), torch.tensor([2, 0, 2])
    states: tuple[dict, dict] = {}, {}
    for module, state in zip((ours, peer), states, strict=True):
        call(module, x, 0, 4, state)
        module.reorder_incremental_state(state, order)
    for t in range(4, 8):
        torch.testing.assert_close(
            call(ours, x, t, t + 1, states[0]),
            call(peer, x, t, t + 1, states[1]),
            **CLOSE,
        )


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_cross_attention_over_whole_chunks(stride: int) -> None:
    """The peer ignores an incomplete last chunk: only whole chunks are compared."""
    torch.manual_seed(5)
    conf = {**LATENT, "down_rate": stride, "cross_att": True}
    peer_type = load_peer("assets/variant.py").MultiheadTemporalLatentCrossAttention
    peer = peer_type(WIDTH, HEADS, **conf).eval()
    ours = MultiheadTemporalLatentAttention(WIDTH, HEADS, **conf).eval()
    ours.load_state_dict(peer.state_dict(), strict=True)
    for chunks, asked in product((1, 2, 5), (1, 4)):
        memory, query = (
            torch.randn(2, chunks * stride, WIDTH),
            torch.randn(2, asked, WIDTH),
        )
        given = {"query": query, "key": memory, "value": memory, "position": None}
        torch.testing.assert_close(ours(**given), peer(**given), **CLOSE)

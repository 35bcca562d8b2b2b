"""The arithmetic of training against the dense twin, in fp64: values, all gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.naive import dense_latents
from espnet_mtla.attention.training import attend, blocked
from espnet_mtla.attention.training.attend import (
    attend_heads,
    attend_latents,
    attend_prefix,
    gather_tokens,
)
from espnet_mtla.attention.training.flex import attend_flex
from espnet_mtla.attention.training.kernel_choice import training_kernel
from espnet_mtla.attention.training.operators import prefix_attention, strided_attention
from espnet_mtla.errors import UserError

HEADS, NOPE, ROPE, RANK, VALUE = 3, 6, 4, 10, 5
SCALE = 0.3
EXACT = {"rtol": 0.0, "atol": 1e-11}
kernels = pytest.mark.parametrize("kernel", ["cpu_flash", "blocked"])
any_order = pytest.mark.parametrize("kernel", ["auto", "blocked"])
"""For queries of any rank: auto takes one call with a mask where there are few."""
strides = pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def tensors(
    tokens: int, asked: int | None = None, batch: int = 2, value: int = VALUE
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, entries and the expanding weight."""
    q = leaf(batch, asked or tokens, HEADS, NOPE + ROPE)
    return q, leaf(batch, tokens, RANK + ROPE), leaf(HEADS * (NOPE + value), RANK)


def same(fast: Tensor, slow: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """Equal outputs and equal gradients in a random direction."""
    torch.testing.assert_close(fast, slow, **EXACT)
    direction = torch.randn_like(slow)
    ours = torch.autograd.grad(fast, leaves, direction)
    twins = torch.autograd.grad(slow, leaves, direction)
    for our, twin in zip(ours, twins, strict=True):
        torch.testing.assert_close(our, twin, **EXACT)


@kernels
@strides
def test_every_length_around_chunk_edges(kernel: str, stride: int) -> None:
    for tokens in [*range(1, 3 * stride + 2), 8 * stride - 1, 8 * stride]:
        q, entries, weight = leaves = tensors(tokens)
        heads = q.transpose(1, 2)
        with training_kernel(kernel):
            fast = attend_latents(heads, entries, weight, None, stride, SCALE, 0.0)
        same(fast, dense_latents(heads, entries, weight, None, stride, SCALE), leaves)


@any_order
@strides
def test_some_tokens_ask_from_row_to_row_others(kernel: str, stride: int) -> None:
    """Query indices may repeat and be in any order."""
    for tokens, query_index in [
        (13, [[9, 10, 11, 12], [0, 1, 2, 3]]),
        (stride, [[stride - 1], [0]]),
        (2 * stride + 1, [[0, 0, stride], [2 * stride, 1, 1]]),
    ]:
        index = torch.tensor(query_index)
        q, entries, weight = leaves = tensors(tokens, index.size(1))
        heads = q.transpose(1, 2)
        with training_kernel(kernel):
            fast = attend_latents(heads, entries, weight, index, stride, SCALE, 0.0)
        same(fast, dense_latents(heads, entries, weight, index, stride, SCALE), leaves)


def test_long_rows_take_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blocked.SCORES, "cpu", 1)
    q, entries, weight = leaves = tensors(75)
    heads = q.transpose(1, 2)
    with training_kernel("blocked"):
        fast = attend_latents(heads, entries, weight, None, 3, SCALE, 0.0)
    same(fast, dense_latents(heads, entries, weight, None, 3, SCALE), leaves)


@kernels
def test_values_may_be_wider_than_keys(kernel: str) -> None:
    q, entries, weight = leaves = tensors(11, value=14)
    heads = q.transpose(1, 2)
    with training_kernel(kernel):
        fast = attend_latents(heads, entries, weight, None, 2, SCALE, 0.0)
    same(fast, dense_latents(heads, entries, weight, None, 2, SCALE), leaves)


@pytest.mark.parametrize("kernel", ["auto", "cpu_flash", "blocked"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_heads_that_share_keys(kernel: str, groups: int) -> None:
    for query_index in (None, torch.tensor([[3, 4, 8], [0, 1, 2]])):
        asked = 9 if query_index is None else query_index.size(1)
        leaves = q, k, v = (
            leaf(2, 4, asked, 6),
            leaf(2, groups, 9, 6),
            leaf(2, groups, 9, 6),
        )
        with training_kernel(kernel):
            fast = attend_heads(q, k, v, query_index, SCALE, 0.0)
        index = torch.arange(9)[None] if query_index is None else query_index
        mask = (torch.arange(9) <= index[..., None])[:, None]
        slow = F.scaled_dot_product_attention(
            q, k, v, mask, scale=SCALE, enable_gqa=True
        )
        same(fast, slow, leaves)


@pytest.mark.parametrize("kernels", [(), ("cpu_flash",)], ids=["spread", "grouped"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernels_with_groups_and_without(
    groups: int, kernels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels that support grouped queries, and with others."""
    monkeypatch.setattr(attend, "WITH_GROUPS", kernels)
    leaves = q, k, v = leaf(2, 4, 9, 6), leaf(2, groups, 9, 6), leaf(2, groups, 9, 6)
    fast = attend_heads(q, k, v, None, SCALE, 0.0)
    many = (x.repeat_interleave(4 // groups, 1) for x in (k, v))
    slow = F.scaled_dot_product_attention(q, *many, is_causal=True, scale=SCALE)
    same(fast, slow, leaves)


@strides
def test_flex_attention_says_the_same(stride: int) -> None:
    """Uncompiled, as it runs on a CPU, it knows no backward."""
    for tokens, query_index in [
        (2 * stride + 1, None),
        (9, torch.tensor([[3, 8], [0, 1]])),
    ]:
        asked = tokens if query_index is None else query_index.size(1)
        q, entries, weight = (x.detach() for x in tensors(tokens, asked))
        index = torch.arange(tokens)[None] if query_index is None else query_index
        visible = index + 1 if stride == 1 else index // stride
        finished, running = (
            entries[:, stride - 1 :: stride],
            gather_tokens(entries, index),
        )
        out = attend_flex(q, finished, running, weight, visible, stride, SCALE)
        heads = q.transpose(1, 2)
        slow = dense_latents(heads, entries, weight, query_index, stride, SCALE)
        torch.testing.assert_close(out.transpose(1, 2), slow, rtol=0, atol=1e-6)


def test_a_query_that_sees_nothing_gets_zero() -> None:
    leaves = q, k, v = leaf(1, 2, 3, 4), leaf(1, 2, 5, 4), leaf(1, 2, 5, 4)
    out = attend_prefix(q, k, v, torch.tensor([[0, 2, 5]]), SCALE, 0.0)
    assert torch.equal(out[:, :, 0], torch.zeros(1, 2, 4))
    for grad in torch.autograd.grad(out.sum(), leaves):
        assert grad.isfinite().all()


# Operators ---------------------------------------------------------------------------


def operands(kernel: str, dropout: float, stride: int = 2) -> tuple:
    q, entries, weight = tensors(5, batch=1)
    finished = entries.detach()[:, stride - 1 :: stride].clone().requires_grad_()
    visible = (torch.arange(5)[None] + 1) // stride
    settings = (kernel, stride, False, SCALE, dropout)
    return q, finished, entries, weight, visible, torch.tensor([3]), *settings


@pytest.mark.parametrize(
    ("kernel", "dropout"), [("cpu_flash", 0.0), ("blocked", 0.0), ("blocked", 0.4)]
)
def test_gradients_are_exact(kernel: str, dropout: float) -> None:
    """With dropout too: both directions draw the same numbers from the seed."""
    given = operands(kernel, dropout)

    def output(*four: Tensor) -> Tensor:
        return strided_attention(*four, *given[4:])[0]

    assert torch.autograd.gradcheck(output, given[:4], fast_mode=True)


def test_gradients_of_prefix_attention_with_dropout_are_exact() -> None:
    visible, seed = torch.tensor([[1, 3, 4]]), torch.tensor([5])

    def output(*three: Tensor) -> Tensor:
        return prefix_attention(*three, visible, seed, SCALE, 0.3)[0]

    given = leaf(2, 4, 3, 5), leaf(2, 2, 4, 5), leaf(2, 2, 4, 3)
    assert torch.autograd.gradcheck(output, given, fast_mode=True)


@kernels
def test_operators_keep_pytorchs_rules(kernel: str) -> None:
    """Schema, shapes in tracing, gradients under AOT autograd."""
    torch.library.opcheck(strided_attention, operands(kernel, 0.0))


def test_prefix_operator_keeps_pytorchs_rules() -> None:
    given = leaf(2, 4, 3, 5), leaf(2, 2, 4, 5), leaf(2, 2, 4, 3)
    rest = torch.tensor([[1, 3, 4]]), torch.tensor([5]), SCALE, 0.0
    torch.library.opcheck(prefix_attention, (*given, *rest))


def test_one_call_with_a_mask_is_for_few_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, entries, weight = tensors(13, 4)
    index, calls = torch.tensor([[9, 10, 11, 12]]), []
    dense = attend.attend_dense
    monkeypatch.setattr(
        attend, "attend_dense", lambda *given: calls.append(1) or dense(*given)
    )
    scores = 2 * HEADS * 4 * (13 // 2 + 4)  # finished chunks and own ones
    for most, seen in ((scores, 1), (scores - 1, 1)):
        monkeypatch.setattr(attend, "MOST_SCORES", most)
        attend_latents(q.transpose(1, 2), entries, weight, index, 2, SCALE, 0.0)
        assert len(calls) == seen


# Dropout -----------------------------------------------------------------------------


def test_dropout_zeroes_and_rescales_weights() -> None:
    """Values that are unit vectors show the weights themselves."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 8, 64, 4), torch.randn(1, 8, 64, 4)
    v, all_seen = torch.eye(64).expand(1, 8, 64, 64), torch.full((1, 64), 64)
    whole = attend_prefix(q, k, v, all_seen, SCALE, 0.0)
    dropped = attend_prefix(q, k, v, all_seen, SCALE, 0.25)
    gone = dropped == 0
    assert abs(gone.float().mean().item() - 0.25) < 0.01  # of 32768: 4 deviations
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.75)


@any_order
@pytest.mark.parametrize("stride", [1, 3])
def test_dropout_keeps_the_mean(
    kernel: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend, "MOST_SCORES", 2**30)
    torch.manual_seed(0)
    q, entries, weight = (x.detach().float() for x in tensors(10, batch=1))
    many = q.transpose(1, 2).expand(3000, -1, -1, -1)
    rows = entries.expand(3000, -1, -1)
    whole = attend_latents(many[:1], entries, weight, None, stride, SCALE, 0.0)
    with training_kernel(kernel):
        drawn = attend_latents(many, rows, weight, None, stride, SCALE, 0.2)
    error = (drawn.mean(0) - whole[0]) / (drawn.std(0) / 3000**0.5).clamp(min=1e-6)
    assert drawn[0].ne(drawn[1]).any()
    assert error.abs().max() < 5


# The choice of a kernel --------------------------------------------------------------


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(UserError, match="'fast' given, one of auto, cpu_flash"):
        training_kernel("fast").__enter__()


@pytest.mark.parametrize(
    ("kernel", "dropout", "why"),
    [("cuda_flash", 0.0, "is for NVIDIA GPUs"), ("cpu_flash", 0.1, "has no dropout")],
)
def test_an_unfit_kernel_says_why(kernel: str, dropout: float, why: str) -> None:
    q, entries, weight = tensors(4)
    with training_kernel(kernel), pytest.raises(UserError, match=f"{kernel} {why}"):
        attend_latents(q.transpose(1, 2), entries, weight, None, 2, SCALE, dropout)

"""Attention layers in training: bytes kept, mixed precision, compilation, padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from espnet_mtla.attention import CausalAttention, QueryTokens, build_attention
from espnet_mtla.attention.training.kernel_choice import training_kernel
from espnet_mtla.benchmark.measure import saved_bytes
from espnet_mtla.benchmark.references import SdpaMultihead
from test.support.attention_types import TYPES, WIDTH, make

kinds = pytest.mark.parametrize(
    "kind", ["mha", "gqa", "mla", "mtla_s2", "mtla_s3", "mtla_s2_w4"]
)


def paper_layer(stride: int) -> CausalAttention:
    return build_attention("mtla", 512, 8, conf={"down_rate": stride})


def kept(module: torch.nn.Module, forward: Callable[[], Tensor], x: Tensor) -> int:
    return saved_bytes(forward, x, *module.parameters())


# Memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_an_mtla_layer_keeps_little_more_than_a_flash_mha(stride: int) -> None:
    x = torch.randn(1, 1024, 512, requires_grad=True)
    layer, base = paper_layer(stride), SdpaMultihead(512, 8)
    ours = kept(layer, lambda: layer.attend_all(x), x)
    theirs = kept(base, lambda: base(x), x)
    assert theirs >= 4 * 1024 * 512 * 4  # q, k, v, output: the count counts
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("fixed", [False, True], ids=["all-ask", "text-asks"])
@kinds
def test_saved_bytes_grow_with_the_length_alone(
    kind: str, fixed: bool, dropout: float
) -> None:
    module = make(kind, torch.float32).train()
    module.dropout = dropout

    def measured(tokens: int) -> int:
        x = torch.randn(1, tokens, WIDTH, requires_grad=True)
        query_tokens = QueryTokens(x)
        if fixed:
            query_index = torch.arange(tokens // 2, tokens)[None]
            query_tokens = QueryTokens(x[:, tokens // 2 :], query_index)
        return kept(module, lambda: module.attend_all(x, query_tokens), x)

    assert measured(1024) <= 2.05 * measured(512)


# Precision, compilation, checkpoints -------------------------------------------------


def gradients(
    module: CausalAttention, run: Callable[[Tensor], Tensor], x: Tensor
) -> list[Tensor]:
    """Output, and gradients of the input and of all parameters."""
    torch.manual_seed(0)  # the same dropout
    x = x.detach().requires_grad_()
    out = run(x)
    loss = (out.float() * torch.linspace(-1, 1, out.size(-1))).sum()
    leaves = [x, *module.parameters()]
    return [out, *torch.autograd.grad(loss, leaves)]


@kinds
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_mixed_precision(kind: str, dropout: float) -> None:
    module = make(kind, torch.float32).train()
    module.dropout = dropout
    x = torch.randn(2, 13, WIDTH)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module.attend_all(x)

    exact, rounded = (
        gradients(module, module.attend_all, x),
        gradients(module, mixed, x),
    )
    assert rounded[0].dtype == torch.bfloat16
    for whole, half in zip(exact, rounded, strict=True):
        assert (half.float() - whole).norm() < 0.04 * whole.norm() + 1e-4


@kinds
def test_bfloat16_parameters(kind: str) -> None:
    exact, rounded = make(kind, torch.float32), make(kind, torch.bfloat16)
    x = torch.randn(2, 13, WIDTH)
    whole = gradients(exact, exact.attend_all, x)
    half = gradients(rounded, rounded.attend_all, x.bfloat16())
    for a, b in zip(whole, half, strict=True):
        assert b.dtype == torch.bfloat16
        assert (b.float() - a).norm() < 0.06 * a.norm() + 1e-4


@pytest.mark.parametrize("kind", ["mtla_s2", "mtla_s2_w3_phase", "mtla_converted"])
def test_compilation_in_one_graph_for_every_length(kind: str) -> None:
    torch._dynamo.reset()
    module = make(kind, torch.float32)
    compiled = torch.compile(
        module.attend_all, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for tokens in (9, 14):
        x = torch.randn(2, tokens, WIDTH)
        plain = gradients(module, module.attend_all, x)
        for a, b in zip(plain, gradients(module, compiled, x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kernel", "dropout"), [("auto", 0.0), ("auto", 0.3), ("blocked", 0.3)]
)
@kinds
def test_activation_checkpoints(kind: str, kernel: str, dropout: float) -> None:
    """Recomputation in the backward draws the same random numbers."""
    module = make(kind, torch.float32).train()
    module.dropout = dropout
    x = torch.randn(2, 11, WIDTH)

    def again(x: Tensor) -> Tensor:
        return checkpoint(module.attend_all, x, use_reentrant=False)

    with training_kernel(kernel):
        plain = gradients(module, module.attend_all, x)
        made_again = gradients(module, again, x)
    for a, b in zip(plain, made_again, strict=True):
        torch.testing.assert_close(a, b)


# Padding -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_a_row_is_the_same_alone_and_in_a_batch(kind: str) -> None:
    """Padding after a row does not change results and gets no gradient."""
    module, lengths = make(kind), [3, 8, 11]
    x = torch.randn(3, 11, WIDTH, dtype=torch.float64, requires_grad=True)
    out = module.attend_all(x)
    valid = torch.arange(11) < torch.tensor(lengths)[:, None]
    grad = torch.autograd.grad(out[valid].sum(), x)[0]
    assert grad[~valid].abs().max() == 0
    for row, length in enumerate(lengths):
        alone = module.attend_all(x[row : row + 1, :length])[0]
        torch.testing.assert_close(out[row, :length], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["mha", "gqa", "mla", "mtla_s3"])
@pytest.mark.parametrize("asked", [4, 9])
def test_nan_in_padding_never_leaks(kind: str, asked: int) -> None:
    """Padding on the left, as callers of the reference have it."""
    module = make(kind).train()
    module.dropout = 0.1
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    pad = torch.zeros(2, 9, dtype=torch.bool)
    pad[1, :3] = True
    x[pad] = float("nan")
    query = x[:, -asked:]
    leaf = x.clone().requires_grad_()
    out = module(query=query.nan_to_num(), key=leaf, key_padding_mask=pad)
    valid = out[~pad[:, -asked:]]
    assert valid.isfinite().all()
    gradient = torch.autograd.grad(valid.sum(), leaf)[0]
    assert gradient.isfinite().all() and gradient[pad].abs().max() == 0

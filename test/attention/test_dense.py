"""Training, prefill and step against the dense twin: values and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention.naive import dense_attention
from test.support.attention_types import TYPES, WIDTH, make, stride_of

EXACT = {"rtol": 0.0, "atol": 1e-6}  # the chunk encoding is float32 in any case
kinds = pytest.mark.parametrize("kind", TYPES)


@kinds
def test_training_equals_the_dense_twin_at_every_length(kind: str) -> None:
    module = make(kind)
    for tokens in range(1, 4 * stride_of(kind) + 3):
        x = torch.randn(1, tokens, WIDTH, dtype=torch.float64)
        ours = module.attend_all(x)[0]
        torch.testing.assert_close(ours, dense_attention(module, x[0]), **EXACT)


@kinds
def test_gradients_equal_those_of_the_dense_twin(kind: str) -> None:
    module = make(kind)
    x = torch.randn(1, 11, WIDTH, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(11, WIDTH, dtype=torch.float64)
    leaves = [x, *module.parameters()]
    fast = torch.autograd.grad((module.attend_all(x)[0] * direction).sum(), leaves)
    dense = torch.autograd.grad(
        (dense_attention(module, x[0]) * direction).sum(), leaves
    )
    names = ["x", *(name for name, _ in module.named_parameters())]
    for name, ours, twin in zip(names, fast, dense, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-5, atol=1e-6, msg=name)


@kinds
@settings(max_examples=15)
@given(data=st.data())
def test_uneven_pieces_equal_one_pass(kind: str, data: st.DataObject) -> None:
    """Prefill of any length, then pieces of any size, against training."""
    module = make(kind)
    prompt = data.draw(st.integers(1, 9), label="prompt")
    pieces = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6), "pieces")
    tokens = prompt + sum(pieces)
    x = torch.randn(2, tokens, WIDTH, dtype=torch.float64)
    whole = module.attend_all(x)
    lengths = torch.full((2,), prompt)
    out, cache = module.prefill(x[:, :prompt], lengths, capacity=sum(pieces))
    outs, start = [out], prompt
    for size in pieces:
        outs.append(module.extend(x[:, start : start + size], cache))
        start += size
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=0, atol=1e-10)
    assert cache.num_tokens.tolist() == [tokens, tokens]


@pytest.mark.parametrize("kind", ["mha", "mla", "mtla_s2", "mtla_s3"])
def test_attention_dropout_acts_in_training_alone(kind: str) -> None:
    module = make(kind)
    module.dropout = 0.5
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    assert torch.equal(module.attend_all(x), module.attend_all(x))
    module.train()
    assert not torch.equal(module.attend_all(x), module.attend_all(x))


def test_no_quadratic_tensor_is_kept_for_merging() -> None:
    """Tensors saved for backward hold at most heads x T x (T / s + 1) numbers each."""
    module, tokens = make("mtla_s4", torch.float32), 256
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module.attend_all(torch.randn(1, tokens, WIDTH)).sum().backward()
    assert max(sizes) <= 4 * tokens * (tokens // 4 + 1)

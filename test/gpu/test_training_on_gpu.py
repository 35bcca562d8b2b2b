"""The training engine on a GPU: right in bfloat16, and no memory of T x T."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_mtla.attention import CausalAttention, build_attention
from espnet_mtla.attention.naive import dense_attention
from test.support.gpu_device import CUDA, NEEDS_GPU

pytestmark = NEEDS_GPU
KINDS = {
    "mha": ("mha", {}),
    "gqa": ("gqa", {}),
    "mla": ("mla", {}),
    "mtla_s2": ("mtla", {"down_rate": 2}),
    "mtla_s3": ("mtla", {"down_rate": 3}),
    "mtla_s4": ("mtla", {"down_rate": 4}),
}


def make(kind: str, dtype: torch.dtype, width: int = 256) -> CausalAttention:
    torch.manual_seed(4)
    name, conf = KINDS[kind]
    return build_attention(name, width, 4, conf=conf).to(CUDA, dtype)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_the_dense_twins(
    kind: str, dtype: torch.dtype, bound: float
) -> None:
    module = make(kind, dtype)
    twin = copy.deepcopy(module).to("cpu", torch.float64)
    x = torch.randn(1, 67, 256, device=CUDA, dtype=dtype, requires_grad=True)
    exact_x = x.detach().cpu().double().requires_grad_()
    direction = torch.randn(67, 256, device=CUDA, dtype=dtype)
    out = module.attend_all(x)[0]
    expected = dense_attention(twin, exact_x[0])
    assert (out.cpu().double() - expected).norm() < bound * expected.norm()
    out.backward(direction)
    expected.backward(direction.cpu().double())
    pairs = {"x": (x, exact_x)}
    others = dict(twin.named_parameters())
    pairs |= {name: (p, others[name]) for name, p in module.named_parameters()}
    for name, (found, right) in pairs.items():
        if right.grad is None:
            continue
        difference = (found.grad.cpu().double() - right.grad).norm()
        assert difference < 3 * bound * right.grad.norm() + 1e-9, name


@pytest.mark.parametrize("kind", ["mla", "mtla_s2", "mtla_s4"])
def test_memory_grows_with_the_length_not_its_square(kind: str) -> None:
    module = make(kind, torch.bfloat16, width=512)

    def peak(tokens: int) -> int:
        x = torch.randn(1, tokens, 512, device=CUDA, dtype=torch.bfloat16)
        x.requires_grad_()
        module.attend_all(x).float().sum().backward()  # workspaces, compilation
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        module.attend_all(x).float().sum().backward()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    assert peak(16384) < 2.6 * peak(8192)


@pytest.mark.parametrize("kind", ["mha", "mtla_s2"])
def test_mixed_precision_trains(kind: str) -> None:
    module = make(kind, torch.float32)
    x = torch.randn(2, 64, 256, device=CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        loss = module.attend_all(x).float().square().mean()
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
    assert loss.isfinite()

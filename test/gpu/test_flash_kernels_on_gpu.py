"""Every training kernel for GPUs, by name, against the dense twin in fp64."""

from __future__ import annotations

import pytest
import torch

from espnet_mtla.attention.naive import dense_latents
from espnet_mtla.attention.training.attend import attend_latents
from espnet_mtla.attention.training.flash import KERNELS
from espnet_mtla.attention.training.kernel_choice import BLOCKED, FLEX, training_kernel
from test.support.gpu_device import CUDA, NEEDS_GPU

pytestmark = NEEDS_GPU
HEADS, NOPE, ROPE, LATENT, VALUE = 4, 64, 32, 128, 64
NAMES = [*(name for name in KERNELS if name.startswith("cuda")), BLOCKED, FLEX]


def tensors(tokens: int) -> list[torch.Tensor]:
    torch.manual_seed(2)
    shapes = (2, tokens, HEADS, NOPE + ROPE), (2, tokens, LATENT + ROPE)
    weight = torch.randn(HEADS * (NOPE + VALUE), LATENT) * LATENT**-0.5
    leaves = [*(torch.randn(shape) for shape in shapes), weight]
    return [x.to(CUDA, torch.bfloat16).requires_grad_() for x in leaves]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", NAMES)
def test_output_and_gradients(kernel: str, stride: int) -> None:
    leaves = q, entries, weight = tensors(tokens=205)
    exact = [x.detach().cpu().double().requires_grad_() for x in leaves]
    scale = (NOPE + ROPE) ** -0.5
    with training_kernel(kernel):
        heads = q.transpose(1, 2)
        out = attend_latents(heads, entries, weight, None, stride, scale, 0.0)
        direction = torch.randn_like(out)
        found = [out, *torch.autograd.grad(out, leaves, direction)]
    twin = dense_latents(
        exact[0].transpose(1, 2), exact[1], exact[2], None, stride, scale
    )
    right = [twin, *torch.autograd.grad(twin, exact, direction.cpu().double())]
    for a, b in zip(found, right, strict=True):
        assert (a.cpu().double() - b).norm() < 0.03 * b.norm()


@pytest.mark.parametrize("kernel", ["cuda_flash", BLOCKED])
def test_dropout_keeps_the_mean_and_draws_the_same_twice(kernel: str) -> None:
    q, entries, weight = (x.detach() for x in tensors(tokens=24))
    heads = q[:1].transpose(1, 2).expand(2000, -1, -1, -1)
    rows = entries[:1].expand(2000, -1, -1)

    def drawn(dropout: float) -> torch.Tensor:
        torch.manual_seed(0)
        torch.cuda.manual_seed(0)
        with training_kernel(kernel):
            return attend_latents(heads, rows, weight, None, 2, 0.1, dropout).float()

    once, whole = drawn(0.2), drawn(0.0)
    assert torch.equal(once, drawn(0.2))
    error = (once.mean(0) - whole[0]) / (once.std(0) / 2000**0.5 + 2e-3)
    assert error.abs().max() < 6

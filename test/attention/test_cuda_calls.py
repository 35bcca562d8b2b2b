"""Calls of the kernels for GPUs, checked by shape where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from espnet_mtla.attention.training.flash import KERNELS
from espnet_mtla.attention.training.strided import StridedAttention


@pytest.fixture
def fake() -> Iterator[None]:
    """Return tensors without memory; PyTorch 2.9 and older: few on an absent GPU."""
    with FakeTensorMode():
        try:
            torch.empty(1, 2, device="cuda")[:, 1:]
        except RuntimeError as error:
            pytest.skip(f"PyTorch {torch.__version__}: {str(error).splitlines()[0]}")
        yield


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("cuda_flash", torch.bfloat16),
        ("cuda_efficient", torch.float32),
        ("cuda_efficient", torch.float16),
        ("cuda_cudnn", torch.bfloat16),
    ],
)
def test_arguments_and_shapes_are_those_of_the_kernel(
    kernel: str, dtype: torch.dtype
) -> None:
    like = {"device": "cuda", "dtype": dtype}
    q, entries = torch.empty(2, 33, 8, 96, **like), torch.empty(2, 33, 288, **like)
    assert KERNELS[kernel].unsupported_reason(q, 0.0) is None
    given = (q, entries[:, 1::2], entries, torch.empty(8 * 128, 256, **like))
    visible = torch.empty(1, 33, device="cuda", dtype=torch.long)
    seed = torch.empty(1, dtype=torch.long)
    call = StridedAttention(*given, visible, seed, kernel, 2, False, 0.1, 0.0)
    out, lse, states = call.forward()
    assert out.shape == (2, 33, 8, 64) and lse.shape == (2, 33, 8)
    gradients = call.backward(torch.empty_like(out), out, lse, states)
    assert [x.shape for x in gradients] == [x.shape for x in given]


@pytest.mark.parametrize(
    ("kernel", "dtype", "width", "dropout", "why"),
    [
        ("cuda_flash", torch.float32, 96, 0.0, "does not take torch.float32"),
        ("cuda_flash", torch.float16, 100, 0.0, "multiple of 8"),
        ("cuda_efficient", torch.float64, 96, 0.0, "does not take torch.float64"),
        ("cuda_efficient", torch.float32, 96, 0.1, "random state"),
        ("cuda_cudnn", torch.bfloat16, 160, 0.0, "at most 128"),
        ("cpu_flash", torch.float32, 96, 0.0, "is for CPUs"),
    ],
)
def test_an_unfit_kernel_says_why_before_it_is_called(
    kernel: str, dtype: torch.dtype, width: int, dropout: float, why: str
) -> None:
    with FakeTensorMode():
        q = torch.empty(1, 2, 4, width, device="cuda", dtype=dtype)
        assert why in KERNELS[kernel].unsupported_reason(q, dropout)

"""Our kernels at the sizes they are for; small ones: test/attention/test_triton.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from espnet_mtla.attention import EntryLayout
from espnet_mtla.attention.decoding.backend import choose_backend
from espnet_mtla.attention.decoding.backend.torch import TorchBackend
from espnet_mtla.attention.decoding.backend.triton import TritonBackend
from test.support.gpu_device import CUDA, NEEDS_GPU
from test.support.kernel_checks import (
    TOLERANCE,
    NewToken,
    check_attention,
    head_layout,
    latent_layout,
    poisoned_case,
    relative_error,
)

pytestmark = NEEDS_GPU
TRITON = TritonBackend()
LAYOUTS = {
    "128+32": latent_layout(128, 32),
    "192+32": latent_layout(192, 32),  # no power of two
    "256+32": latent_layout(256, 32),
    "256+64": latent_layout(256, 64),
    "512+64": latent_layout(512, 64),
    "8x64": head_layout(8, 64),
    "2x96": head_layout(2, 96),
}
HALF = [torch.float16, torch.bfloat16]


def exactly(
    q: Tensor, entries: Tensor, layout: EntryLayout, visible: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The PyTorch back-end in float64, on the CPU."""
    double = [x.cpu().double() for x in (q, entries)]
    return TorchBackend().attend(*double, layout, visible.cpu(), scale)


@pytest.mark.parametrize("queries", [8, 160, 400])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_real_sizes(layout: EntryLayout, dtype: torch.dtype, queries: int) -> None:
    """A beam's queries over prompts of very different lengths, NaN behind each."""
    visible = torch.tensor([[0], [1], [63], [64], [65], [1000]], device=CUDA)
    queries = max(queries // layout.heads, 1)
    q, entries = poisoned_case(layout, visible, queries, 1000, dtype)
    scale = layout.key_width**-0.5
    result = TRITON.attend(q, entries, layout, visible, scale)
    check_attention(result, exactly(q, entries, layout, visible, scale), dtype)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_long_rows_are_split_and_come_out_the_same_every_time(
    dtype: torch.dtype,
) -> None:
    layout = latent_layout(256, 32)
    visible = torch.tensor([[16384], [9001]], device=CUDA)
    q, entries = poisoned_case(layout, visible, 8, 16384, dtype)
    runs = [TRITON.attend(q, entries, layout, visible, 0.06) for _ in range(3)]
    for out, lse in runs[1:]:
        assert torch.equal(out, runs[0][0])
        assert torch.equal(lse, runs[0][1])
    check_attention(runs[0], exactly(q, entries, layout, visible, 0.06), dtype)


def test_more_entries_than_32_bits_can_count() -> None:
    layout, slots, rows = latent_layout(256, 32), 120_000, 64
    if torch.cuda.mem_get_info()[0] < 8e9:
        pytest.skip("8 GB of free memory are needed")
    entries = torch.randn(
        rows, 1, slots, layout.width, device=CUDA, dtype=torch.bfloat16
    )
    assert entries.numel() > 2**31
    q = torch.randn(rows, 1, 8, layout.key_width, device=CUDA, dtype=torch.bfloat16)
    visible = torch.full((rows, 1), slots, device=CUDA)
    out, _ = TRITON.attend(q, entries, layout, visible, 0.06)
    last, _ = TRITON.attend(q[-1:], entries[-1:], layout, visible[-1:], 0.06)
    assert relative_error(out[-1:], last.double()) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize(("rank", "rope"), [(128, 32), (256, 32), (512, 64)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_new_tokens_of_a_large_beam(
    stride: int, rank: int, rope: int, dtype: torch.dtype
) -> None:
    seen = torch.arange(500, 700, device=CUDA)
    token = NewToken(stride, seen, rank, rope, dtype, merges=True)
    with torch.no_grad():
        TRITON.write_token(
            token.raw, token.norm, token.hypernet, token.placement, token.cache
        )
    token.check(dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_auto_takes_our_kernels_here(dtype: torch.dtype) -> None:
    backend = choose_backend("auto", latent_layout(256, 32), dtype, CUDA)
    assert backend.name == "triton"

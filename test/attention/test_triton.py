"""Our Triton kernels against float64: interpreted on the CPU where there is no GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from espnet_mtla.attention import EntryLayout
from espnet_mtla.attention.decoding.backend.triton import TritonBackend, attend
from espnet_mtla.attention.decoding.backend.triton_plan import Launch, plan
from espnet_mtla.attention.naive import dense_attention
from espnet_mtla.errors import UserError
from test.support.attention_types import make
from test.support.kernel_checks import (
    NewToken,
    check_attention,
    dense,
    head_layout,
    latent_layout,
    poisoned_case,
    relative_error,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRITON = TritonBackend((DEVICE.type,))
SMALL = Launch(block_m=16, block_s=16, splits=1, warps=4, stages=1)
EDGES = torch.tensor([[0, 1, 15], [16, 17, 31], [32, 33, 0], [0, 0, 0]], device=DEVICE)
"""Visible entries around the edges of tiles of 16, one row that sees nothing."""

LAYOUTS = {
    "latent 24+8": latent_layout(24, 8),  # no powers of two
    "latent 20": latent_layout(20, 0),
    "heads 2x12": head_layout(2, 12),
}
PAPER = {
    "128+32": latent_layout(128, 32),
    "256+32": latent_layout(256, 32),
    "256+64": latent_layout(256, 64),
    "512+64": latent_layout(512, 64),
    "8x64": head_layout(8, 64),
}


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_edge_of_a_tile(layout: EntryLayout, splits: int) -> None:
    q, entries = poisoned_case(layout, EDGES, 3, 40, torch.float32)
    launch = dataclasses.replace(SMALL, splits=splits)
    result = attend(q, entries, layout, EDGES, 0.3, launch)
    check_attention(result, dense(q, entries, layout, EDGES, 0.3), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", PAPER.values(), ids=PAPER)
def test_the_widths_of_the_paper_and_beyond(
    layout: EntryLayout, dtype: torch.dtype
) -> None:
    visible = torch.tensor([[37], [21]], device=DEVICE)
    q, entries = poisoned_case(layout, visible, 2, 40, dtype)
    result = TRITON.attend(q, entries, layout, visible, layout.key_width**-0.5)
    expected = dense(q, entries, layout, visible, layout.key_width**-0.5)
    check_attention(result, expected, dtype)


def test_more_queries_than_a_block_holds_each_with_a_limit_of_its_own() -> None:
    layout, generator = latent_layout(16, 4), torch.Generator().manual_seed(3)
    visible = torch.randint(0, 50, (2, 37), generator=generator).to(DEVICE)
    q, entries = poisoned_case(layout, visible, 37, 50, torch.float32)
    result = attend(q, entries, layout, visible, 0.3, SMALL)
    check_attention(result, dense(q, entries, layout, visible, 0.3), torch.float32)


@pytest.mark.parametrize("splits", [1, 4])
def test_the_same_bits_in_every_run(splits: int) -> None:
    layout, visible = latent_layout(24, 8), torch.tensor([[61], [40]], device=DEVICE)
    q, entries = poisoned_case(layout, visible, 2, 64, torch.bfloat16)
    launch = dataclasses.replace(SMALL, splits=splits)
    runs = [attend(q, entries, layout, visible, 0.3, launch) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_queries_and_entries_are_read_where_they_lie() -> None:
    """Any strides but the last: a cache's slice, a transposed projection."""
    layout, visible = head_layout(2, 8), torch.tensor([[9], [5]], device=DEVICE)
    q, entries = poisoned_case(layout, visible, 3, 12, torch.float32)
    expected = dense(q, entries, layout, visible, 0.3)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    entries = entries.transpose(1, 2).contiguous().transpose(1, 2)
    result = TRITON.attend(q, entries, layout, visible, 0.3)
    check_attention(result, expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_merge_to_the_whole(dtype: torch.dtype) -> None:
    layout, whole = latent_layout(24, 8), torch.tensor([[30], [18], [0]], device=DEVICE)
    q, entries = poisoned_case(layout, whole, 5, 30, dtype)
    first = whole.clamp(max=18)  # of the second row all, of the third nothing
    parts = [
        TRITON.attend(q, entries, layout, first, 0.3),
        TRITON.attend(q, entries[:, :, 18:], layout, whole - first, 0.3),
    ]
    merged = TRITON.merge(*parts[0], *parts[1])
    exact, _ = dense(q, entries, layout, whole, 0.3)
    bound = 5e-6 if dtype == torch.float32 else 2e-2
    assert relative_error(merged, exact) < bound
    assert merged[2].eq(0).all()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_new_token_at_every_place_of_a_chunk(stride: int) -> None:
    seen = torch.arange(4 * stride + 2, device=DEVICE)
    token = NewToken(stride, seen, 24, 8, torch.float32, merges=True)
    _write(token)
    token.check(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_new_token_at_the_papers_widths(dtype: torch.dtype) -> None:
    seen = torch.tensor([500, 1001, 7], device=DEVICE)
    token = NewToken(2, seen, 256, 32, dtype, merges=True)
    _write(token)
    token.check(dtype)


def test_a_new_token_of_mla_is_its_own_entry() -> None:
    token = NewToken(1, torch.arange(5, device=DEVICE), 20, 0, torch.float32, False)
    _write(token)
    token.check(torch.float32)


def _write(token: NewToken) -> None:
    with torch.no_grad():
        TRITON.write_token(
            token.raw, token.norm, token.hypernet, token.placement, token.cache
        )


@pytest.mark.parametrize("kind", ["gqa", "mla", "mtla_s2", "mtla_s3"])
def test_decoding_through_the_kernels_equals_the_dense_twin(kind: str) -> None:
    """Two prompts of different lengths, two hypotheses each, reordered on the way."""
    module = make(kind, torch.float32).to(DEVICE)
    torch.manual_seed(0)
    prompt, lengths = torch.randn(2, 5, 32), torch.tensor([5, 2])
    with torch.no_grad():
        _, cache = module.prefill(
            prompt.to(DEVICE), lengths.to(DEVICE), capacity=4, attend_prompt=False
        )
        cache.backend = TRITON
        cache.fork(2)
        rows = [prompt[b, : lengths[b]] for b in (0, 0, 1, 1)]
        for step in range(4):
            new = torch.randn(4, 1, 32)
            out = module.extend(new.to(DEVICE), cache)
            rows = [torch.cat((row, x)) for row, x in zip(rows, new, strict=True)]
            _check_against_twin(module, rows, out)
            if step == 1:
                order = [1, 1, 3, 2]
                cache.reorder(torch.tensor(order, device=DEVICE))
                rows = [rows[i] for i in order]


def _check_against_twin(
    module: torch.nn.Module, rows: list[torch.Tensor], out: torch.Tensor
) -> None:
    twin = make_double(module)
    exact = torch.stack([dense_attention(twin, row.double())[-1] for row in rows])
    assert relative_error(out[:, 0], exact) < 5e-6


def make_double(module: torch.nn.Module) -> torch.nn.Module:
    """A float64 copy on the CPU."""
    import copy

    return copy.deepcopy(module).to("cpu", torch.float64)


# ---------------------------------------------------------------- the plan


def test_the_plan_fills_the_device_and_wastes_no_merging() -> None:
    layout = latent_layout(256, 32)

    def splits(groups: int, queries: int, slots: int) -> int:
        return plan(layout, 2, groups, queries, slots, processors=132).splits

    assert splits(1, 8, 100) == 1  # a suffix: nothing to split
    assert splits(1, 160, 250) == 1
    assert splits(4, 160, 500) == 3  # few programs, short rows: 128 entries at least
    assert splits(1, 8, 16384) == 128  # one long row, spread over the device
    assert splits(2000, 8, 16384) == 1  # a large batch fills it anyhow


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", PAPER.values(), ids=PAPER)
def test_tiles_fit_the_memory_of_a_processor(
    layout: EntryLayout, dtype: torch.dtype
) -> None:
    for queries in (1, 8, 160, 400):
        launch = plan(layout, dtype.itemsize, 64, queries, 4096, 132)
        tile = launch.block_s * layout.width * dtype.itemsize
        assert launch.stages * tile <= 160 * 1024
        assert launch.block_s >= 16 and launch.block_m >= 16


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("layout", "dtype", "device", "reason"),
    [
        (PAPER["256+32"], torch.bfloat16, "cpu", "need a CUDA device, cpu given"),
        (PAPER["256+32"], torch.float64, "cuda", "no torch.float64 kernels"),
        (latent_layout(1024, 64), torch.bfloat16, "cuda", "wider than 512"),
    ],
)
def test_what_does_not_fit_is_named(
    layout: EntryLayout,
    dtype: torch.dtype,
    device: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    why = TritonBackend().unsupported_reason(layout, dtype, torch.device(device))
    assert reason in why


def test_an_old_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    why = TritonBackend().unsupported_reason(
        PAPER["256+32"], torch.float16, torch.device("cuda")
    )
    assert "compute capability 8.0" in why


def test_a_machine_without_a_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setenv("PATH", "")
    case = (PAPER["256+32"], torch.float16, torch.device("cuda"))
    monkeypatch.setenv("CC", "/opt/cc")
    assert TritonBackend().unsupported_reason(*case) is None
    monkeypatch.delenv("CC")
    assert "install gcc, or set CC" in TritonBackend().unsupported_reason(*case)


def test_gradients_are_refused_since_there_are_none() -> None:
    layout, visible = latent_layout(16, 4), torch.tensor([[3]], device=DEVICE)
    q, entries = poisoned_case(layout, visible, 2, 4, torch.float32)
    with pytest.raises(UserError, match=r"torch\.no_grad"):
        TRITON.attend(q.requires_grad_(), entries, layout, visible, 0.3)

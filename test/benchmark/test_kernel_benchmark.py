"""The kernel benchmark: sizes counted by hand, its correctness check, bad options."""

from __future__ import annotations

import argparse

import pytest
import torch

from espnet_mtla.attention.decoding.backend.torch import TorchBackend
from espnet_mtla.benchmark import kernel
from espnet_mtla.benchmark.kernel_case import Case
from espnet_mtla.errors import UserError


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    kernel.add_arguments(parser)
    return argparse.Namespace(**vars(parser.parse_args(given)), device="cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that copies 10 GB/s and computes 1 TFLOP/s."""
    ceilings = kernel.Ceilings(10e9, 1e12)
    monkeypatch.setattr(kernel, "measure_ceilings", lambda *_: ceilings)


def test_bytes_and_operations_are_those_counted_by_hand() -> None:
    case = Case("256+32", 2, 8, 100, "cpu", "bfloat16")
    # Entries, then queries of 288 and outputs of 256, two bytes each.
    assert case.nbytes == 2 * (2 * 100 * 288 + 2 * 8 * (288 + 256))
    assert case.flops == 2 * 2 * 8 * 100 * (288 + 256)
    heads = Case("8x64", 1, 1, 10, "cpu", "float32")
    assert heads.nbytes == 4 * 8 * (10 * 128 + 128)


def test_a_row_says_how_near_the_limit_it_came() -> None:
    case = Case("256+32", 64, 8, 4096, "cpu", "bfloat16")
    ceilings = kernel.Ceilings(3e12, 800e12)
    row = kernel._row(case, "triton", case.nbytes / 2.4e12, ceilings)
    assert row["bound by"] == "memory"
    assert row["% of copy"] == pytest.approx(80)
    assert row["% of limit"] == pytest.approx(80)
    shared = Case("256+32", 64, 400, 4096, "cpu", "bfloat16")
    row = kernel._row(shared, "triton", shared.flops / 200e12, ceilings)
    assert row["bound by"] == "products"
    assert row["% of limit"] == pytest.approx(25)


@pytest.mark.usefixtures("quick")
def test_on_a_cpu_the_torch_back_end_runs_and_the_others_are_named() -> None:
    options = ("--entries", "16+4", "2x8", "--shapes", "2x4", "--slots", "5", "9")
    report = kernel.run(arguments(*options))
    assert [row["back-end"] for row in report.rows] == ["torch"] * 4
    assert [row["queries"] for row in report.rows] == [4, 4, 2, 2]
    notes = "\n".join(report.notes)
    assert "backend triton: its kernels need a CUDA device" in notes
    assert "backend flash_attn" in notes
    assert "gate: torch, 2x8" in notes


@pytest.mark.usefixtures("quick")
def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchBackend.attend

    def wrong(self, q, entries, *rest):
        out, lse = right(self, q, entries, *rest)
        return (out * 1.001 if q.dtype == torch.float32 else out), lse

    monkeypatch.setattr(TorchBackend, "attend", wrong)
    with pytest.raises(UserError, match="torch over 16\\+4: differs by"):
        kernel.run(arguments("--entries", "16+4", "--shapes", "1x1", "--slots", "4"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--entries", "256"), "--entries: '256' given, one like 256\\+32 or 8x64"),
        (("--entries", "a+b"), "--entries: 'a\\+b' given"),
        (("--entries", "16+4", "--shapes", "8"), "--shapes: '8' given, rows x queries"),
        (("--backends", "triton"), "backend triton: its kernels need a CUDA device"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_bad_options_are_named(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernel.run(arguments(*options))


def test_cases_too_large_for_the_device_are_left_out_with_a_word() -> None:
    notes: list[str] = []
    options = ("--entries", "512+64", "--shapes", "4096x8", "--slots", "16384")
    args = arguments(*options)
    args.dtype = "bfloat16"
    assert list(kernel._cases(args, notes)) == []
    assert notes == ["left out: 512+64, 4096x8, 16384 slots: too large"]

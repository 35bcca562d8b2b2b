"""Machine code compiled for an H100: number of loads per tile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def code() -> dict[str, dict[str, int]]:
    shown = subprocess.run(
        [sys.executable, "-m", "test.support.hopper_code"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    cases = [json.loads(line) for line in shown.stdout.splitlines()]
    return {case.pop("case"): case for case in cases}


def test_each_tile_is_read_once_in_16_byte_asynchronous_copies(code) -> None:
    """Latents are keys and values, and each byte is loaded once."""
    for name, case in code.items():
        assert case["copies"] == case["copies of one tile a stage"], name


def test_the_loop_stays_in_registers_and_a_processor_holds_it(code) -> None:
    for name, case in code.items():
        # A few words may wait in memory from before the loop until after it. By Triton
        # 3.8 the loop of "latent, 160 queries" reads 14 of them, in 900 instructions.
        assert case["spills in a loop"] <= 16, name
        assert case["shared"] <= 227 * 1024, name
    # Two programs at a time hide each other's waits where memory is the limit.
    assert 2 * code["latent, 8 queries"]["shared"] <= 227 * 1024


def test_many_queries_use_hoppers_matrix_units(code) -> None:
    assert code["latent, 160 queries"]["wgmma"] > 0
    assert code["latent, 8 queries"]["mma"] > 0

from __future__ import annotations

from pathlib import Path

import pytest

from test.support.scored_experiments import SYSTEMS, make_experiment


@pytest.fixture
def experiments(tmp_path) -> list[Path]:
    return [make_experiment(tmp_path, f"asr_x_{name}", name) for name in SYSTEMS]

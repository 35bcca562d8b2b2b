"""A toy corpus of tones, its statistics, and short trainings on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from test.support.toy_corpus import Toy


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The corpus with its statistics; not to be changed by a test."""
    toy = Toy(tmp_path_factory.mktemp("toy"))
    toy("--collect_stats")
    return toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A corpus of the test's own, without statistics."""
    return Toy(tmp_path / "toy")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leave the root logger as it was: commands set it up."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers

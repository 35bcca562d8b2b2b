"""A running server for the tests of this folder, and the texts it is to give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet_mtla import Speech2Text
from test.support.running_server import SAMPLES, Running, serving
from test.support.tiny_experiment import FS


@pytest.fixture(scope="module")
def cutting(model: Path) -> Speech2Text:
    """A model that cuts recordings of more than a second."""
    return Speech2Text.from_pretrained(
        model, device="cpu", beam_size=3, min_length_ratio=0.15, longest_seconds=1.0
    )


@pytest.fixture(scope="module")
def server(cutting: Speech2Text) -> Iterator[Running]:
    with serving(cutting, language="en", largest_batch=6) as running:
        yield running


@pytest.fixture(scope="module")
def texts(cutting: Speech2Text) -> list[str]:
    found = [cutting(samples, FS).text for samples in SAMPLES]
    assert len(set(found)) > len(found) // 2, "texts that tell nothing"
    return found

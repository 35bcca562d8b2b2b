"""Tiny checkpoints, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.support import tiny_upstreams


@pytest.fixture(scope="session")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_upstreams.make_wavlm(tmp_path_factory.mktemp("wavlm") / "tiny.pt")


@pytest.fixture(scope="session")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_upstreams.make_transformers(tmp_path_factory.mktemp("hubert"))

"""The asterisk recipe's own modules, and a corpus for them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from test.support.asterisk_corpus import RECIPE, corpus_texts, write_corpus


@pytest.fixture(scope="module")
def local() -> Iterator[SimpleNamespace]:
    """The recipe's own modules, found as its stage finds them: by their folder."""
    names = ("corpus", "combine", "sentences", "sound", "prepare")
    sys.path.insert(0, str(RECIPE / "local"))
    yield SimpleNamespace(**{n: importlib.import_module(n) for n in names})
    sys.path.remove(str(RECIPE / "local"))
    for name in names:
        del sys.modules[name]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", corpus_texts(), bom=True)

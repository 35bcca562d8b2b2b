"""Prompts in one language, their texts in another: parallel lists to data folders."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mtla.data.table import read_table
from test.support.asterisk_corpus import (
    ROOT,
    corpus_texts,
    fails_with,
    small_options,
    write_corpus,
)

RECIPE = ROOT / "egs2" / "asterisk" / "st1"


def run_st(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """``data.sh`` as stage 1 calls it, but for where it reads and writes."""
    places = ["--corpus", folder / "corpus", "--data", folder / "data"]
    python = Path(sys.executable).parent
    return subprocess.run(
        ["local/data.sh", *places, *options],
        cwd=RECIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{python}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """English sound and list, and a French list of all prompts but one."""
    corpus = write_corpus(tmp_path / "corpus", corpus_texts())
    lines = [
        f"{name}: {' '.join(f'{word}eau' for word in text.split())}"
        for name, text in corpus_texts().items()
        if name not in ("demo-one", "digits/pound", "digits/star")
    ]
    path = corpus / "usr/share/doc/asterisk-core-sounds-fr/core-sounds-fr.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path


def test_translations_stand_beside_what_is_spoken(folder: Path) -> None:
    done = run_st(folder, "--pair", "en-fr", *small_options())
    assert done.returncode == 0, done.stderr
    assert "dropped: no usable text in fr" in done.stdout
    spoken, written = (
        read_table(folder / "data/train" / name) for name in ("text.spoken", "text")
    )
    assert spoken.keys() == written.keys()
    key = next(key for key in spoken if "comb" in key)
    assert written[key] == " ".join(f"{word}eau" for word in spoken[key].split())
    everywhere = [
        set(read_table(folder / "data" / name / "text").values())
        for name in ("train", "valid", "test_combinations", "test_sentences")
    ]
    for held_out in everywhere[1:]:
        assert held_out and not held_out & everywhere[0]


def test_bad_pairs_and_lists(folder: Path) -> None:
    fails_with(run_st(folder, "--pair", "en-en"), "--pair en-en", "en es fr it ru")
    fails_with(run_st(folder, "--pair", "en-it"), "no core-sounds-it.txt.gz")
    assert not (folder / "data").exists()

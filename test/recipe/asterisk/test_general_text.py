"""asterisk/asr2: general text for the language model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mtla.data.table import read_table, write_table

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "egs2/asterisk/asr2/local/general_text.py"
QUOTES = """\
Please hold the line.
A 2nd try: never again!
%
Nobody knew (who would have) the "naïve" answer...
\t\t-- The Author's Guide to Names
%
Goodbye, everybody!  Hm.
"""


def general_text(
    folder: Path, *options: str, **data: str
) -> subprocess.CompletedProcess:
    for name in ("valid", "test_combinations", "test_sentences"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        write_table(folder / "data" / name / "text", {"a": data.get(name, "one two")})
    return subprocess.run(
        [sys.executable, SCRIPT, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def write_quotes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "wisdom").write_text(QUOTES)
    (folder / "wisdom.u8").symlink_to("wisdom")
    (folder / "wisdom.dat").write_bytes(b"\0\xff")
    (folder / "ascii-art.u8").write_text("a drawing of something")
    return folder


@pytest.mark.parametrize("below", ["usr/share/games", "games"])
def test_sentences_of_words_alone(tmp_path: Path, below: str) -> None:
    write_quotes(tmp_path / "corpus" / below / "fortunes")
    done = general_text(
        tmp_path,
        *("--corpus", "corpus", "--languages", "en"),
        test_sentences="goodbye everybody",
    )
    assert done.returncode == 0, done.stderr
    assert set(read_table(tmp_path / "data" / "lm_text").values()) == {
        "please hold the line",
        "never again",
        "nobody knew",
        "who would have",
        "the author's guide to names",
    }
    assert "5 sentences" in done.stdout and "; 1 left out" in done.stdout


def test_a_folder_without_quotations_is_named(tmp_path: Path) -> None:
    done = general_text(tmp_path, "--corpus", "nowhere")
    assert done.returncode != 0
    assert "nowhere: no games/fortunes/*.u8" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "lm_text").exists()

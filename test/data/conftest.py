"""Small data folders of tones, and commands run as a user would run them."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from espnet_mtla.bin.cli import run
from espnet_mtla.data.table import write_table
from test.support.toy_folder import RATE, TEXTS, tone


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``toy``: four utterances of 1.0 to 1.6 s at 16 kHz; the test runs beside it."""
    monkeypatch.chdir(tmp_path)
    folder = Path("toy")
    folder.mkdir()
    wav = {}
    for index, key in enumerate(TEXTS):
        path = f"toy/{index}.wav"
        soundfile.write(path, tone(1 + 0.2 * index, seed=index), RATE)
        wav[key] = path
    write_table(folder / "wav.scp", wav)
    write_table(folder / "text", TEXTS)
    write_table(folder / "utt2spk", {key: key[0] for key in TEXTS})
    write_table(folder / "spk2utt", {"a": "a1 a2", "b": "b/3", "é": "é4"})
    return folder


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., tuple[int, str, str]]:
    """``command(NAME, ARGUMENT, ...)`` gives exit code, standard output and error.

    Standard error is what the command logs, then what it prints there.
    """
    caplog.set_level(logging.INFO)

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        module = importlib.import_module(f"espnet_mtla.bin.{name}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        caplog.clear()
        code = 0
        try:
            run(module.main)
        except SystemExit as left:
            code = left.code
        out, err = capsys.readouterr()
        logged = [f"{item.levelname}: {item.getMessage()}" for item in caplog.records]
        return code, out, "\n".join([*logged, err])

    return call

"""Makes a corpus in the published layout, and runs the recipe's preparation on it."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs2" / "asterisk" / "asr1"
FS = 8000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SMALL = {
    "train_combinations": 60,
    "test_combinations": 12,
    "valid_combinations": 6,
    "test_sentences": 3,
    "valid_sentences": 2,
}
SENTENCES = {
    "demo-one": "The quick brown fox jumps over the lazy dog.",
    "demo-two": "...please press 1 now, or # to exit!",
    "demo-three": "Nobody can take your call today.",
    "demo-four": "All of our lines have been disconnected.",
    "demo-five": "Weasels have eaten our phone system",
    "demo-same": "Weasels have eaten our phone system.",
    "demo-six": "You may hang up whenever you like",
    "demo-seven": "It's half past three A.M. in here",
    "hello": "Hello.",
}
UNUSED = {
    "beep": "[this is a simple beep tone]",
    "confbridge-join": "<beep ascending>",
    "silence/1": "(1 second of silence)",
    "demo-dial": "Dial 500 for Bob",
    "demo-www": "Visit www.example.org today",
    "demo-remark": "IAX (note: does not say 2)",
}


def write_corpus(folder: Path, texts: dict[str, str], bom: bool = False) -> Path:
    """A folder as ``dpkg -x`` leaves it: a gzipped list and one tone a prompt."""
    sounds = folder / "usr/share/asterisk/sounds/en_US_f_Someone"
    for number, name in enumerate(texts):
        path = sounds / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(FS // 4) / FS
        tone = 0.3 * np.sin(2 * np.pi * (200 + 3 * number) * time)
        silence = np.zeros(FS // 10)
        sound = np.concatenate([silence, tone, silence])
        soundfile.write(path, sound, FS, subtype="PCM_16")
    lines = ["; Core sounds", "", *(f"{name}: {text}" for name, text in texts.items())]
    listing = folder / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    listing.parent.mkdir(parents=True)
    mark = "\ufeff" if bom else ""
    listing.write_bytes(gzip.compress((mark + "\n".join(lines) + "\n").encode()))
    return folder


def corpus_texts() -> dict[str, str]:
    """Enough recordings for the templates that any language has."""
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
    digits += ["eight", "nine"]
    texts = {f"digits/{n}": word for n, word in enumerate(digits)}
    texts |= {"digits/pound": "pound", "digits/star": "star"}
    texts |= {f"letters/{c}": c for c in LETTERS}
    texts |= {f"phonetic/{c}_p": f"{c}ish" for c in LETTERS}
    texts |= {f"letters/{name}": name for name in ("dash", "dot", "slash", "plus")}
    return texts | SENTENCES | UNUSED


def sizes(local: SimpleNamespace, **changes: int) -> object:
    return local.prepare.Sizes(**{**SMALL, **changes})


def sound_file(corpus: Path, name: str) -> Path:
    return next(corpus.rglob(f"{name}.wav"))


def run_data(
    tmp_path: Path, *options: str, path: str = ""
) -> subprocess.CompletedProcess:
    """``prepare.py`` as stage 1 calls it, in an empty recipe folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path or os.environ["PATH"]}
    command = [sys.executable, str(RECIPE / "local" / "prepare.py"), *options]
    return subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True
    )


def fails_with(done: subprocess.CompletedProcess, *parts: str) -> None:
    """One line on standard error that holds ``parts``; exit code 1."""
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def small_options() -> list[str]:
    return [word for n, v in SMALL.items() for word in (f"--{n}", str(v))]

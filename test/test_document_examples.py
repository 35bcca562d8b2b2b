"""Examples in the documents that need a trained model, run with a tiny one.

Blocks marked ``py`` and commands of ``espnet-mtla`` name a model (``mine``, or a folder
in ``exp``), a recording (``talk.flac``) and a test set; each test puts the tiny model,
its sounds and its data under these names and runs the text of the document.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from espnet_mtla import __main__ as program
from test.support.markdown import commands, fenced
from test.support.repository import ROOT, relative
from test.test_documents import DOCUMENTS

BLOCKS = [
    pytest.param(block, id=f"{relative(path)}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(fenced(path.read_text(encoding="utf-8"), "py"))
]
RUN = ("transcribe", "pack", "prove", "inference", "plan", "validate_data")
COMMANDS = [
    pytest.param(words, id=f"{relative(path)}-{words[1]}-{number}")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    for number, (_, words) in enumerate(commands(path))
    if words[0] == "espnet-mtla" and words[1] in RUN and len(words) > 2
    if "--help" not in words
]


@pytest.fixture(scope="module")
def folder(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with everything that the documents name."""
    from espnet_mtla.search.options import DecodeOptions
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack

    top = tmp_path_factory.mktemp("documents")
    options = DecodeOptions(beam_size=3, min_length_ratio=0.15)
    pack(model, top / "mine", options, Card("me/mine"))
    samples, rate = soundfile.read(data / "u2.wav")
    for name in ("talk.flac", "b.wav"):
        soundfile.write(top / name, samples, rate)
    for name in ("data/mine", "dump/raw/test_combinations", "dump/raw/mine_test"):
        shutil.copytree(data, top / name)
        keys = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
        (top / name / "text").write_text("".join(f"{key} a b\n" for key in keys))
    (top / "names.txt").write_text("a b\n")
    (top / "exp").mkdir()
    for name in ("asr_train_mine_bpe_150_mtla_s2", "asr_train_bpe_150_mtla_s2"):
        (top / "exp" / name).symlink_to(model)
    return top


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("block", BLOCKS)
def test_python_with_a_model_runs(block: str, capsys) -> None:
    samples, _ = soundfile.read("b.wav", dtype="float32")
    exec(block, {"samples": samples})
    assert "print" not in block or capsys.readouterr().out.strip()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", COMMANDS)
def test_commands_with_a_model_run(
    words: list[str], tmp_path: Path, monkeypatch
) -> None:
    words = list(words)
    if "--output_dir" in words:  # mine is there already, for the other commands
        words[words.index("--output_dir") + 1] = str(tmp_path / "output")
    monkeypatch.setattr(sys, "argv", words)
    program.main()  # leaves by SystemExit where something is wrong
    assert "--output_dir" not in words or any((tmp_path / "output").iterdir())

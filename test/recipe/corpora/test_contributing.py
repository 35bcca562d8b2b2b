"""The preparation that CONTRIBUTING.md shows, on a corpus of the kind it is for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError
from test.support.recipe_runner import ROOT


def test_the_example_prepares_a_corpus(tmp_path: Path, monkeypatch, capsys) -> None:
    document = (ROOT / "CONTRIBUTING.md").read_text()
    example: dict[str, object] = {}
    exec(document.split("```python\n")[1].split("```")[0], example)
    (tmp_path / "wav").mkdir()
    for key in ("train", "valid", "test"):
        (tmp_path / f"{key}.tsv").write_text(f"{key}1\tann\tso it is\n{key}2\tbob\t\n")
        for number in (1, 2):
            (tmp_path / f"wav/{key}{number}.wav").touch()
    command = [
        "prepare.py",
        "--corpus",
        str(tmp_path),
        "--data",
        str(tmp_path / "data"),
    ]
    monkeypatch.setattr(sys, "argv", command)
    example["main"]()
    assert "test: 2 utterances in, 1 kept, 1 dropped" in capsys.readouterr().out
    folder = DataFolder.read(tmp_path / "data/train")
    assert folder.tables["text"] == {"train1": "so it is"}
    assert folder.tables["utt2spk"] == {"train1": "ann"}
    (tmp_path / "wav/test1.wav").unlink()
    with pytest.raises(
        UserError, match=r"test\.tsv: no sound: .*test1\.wav.*--drop_bad"
    ):
        example["main"]()

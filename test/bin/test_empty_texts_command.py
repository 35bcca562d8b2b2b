"""A test set with an empty text, from its data folder to the table of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from espnet_mtla.data.table import read_table, write_table


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a command as its stage does."""

    def run(name: str, *words: object) -> None:
        from importlib import import_module

        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        import_module(f"espnet_mtla.bin.{name}").main()

    return run


def test_from_the_data_folder_to_the_table(
    model: Path, data: Path, tmp_path: Path, call: Callable[..., None], capsys
) -> None:
    wav = read_table(data / "wav.scp")
    texts = {key: "" if key == "u1" else "a b c" for key in wav}
    source, org, kept = (tmp_path / name for name in ("data", "org", "raw"))
    write_table(source / "wav.scp", wav)
    write_table(source / "text", texts)
    write_table(source / "utt2spk", {key: key for key in wav})
    write_table(source / "spk2utt", {key: key for key in wav})
    call("validate_data", source, "--allow_empty_text")
    call("format_audio", source, org, "--fs", 8000)
    limits = ("--min_seconds", 0, "--max_seconds", "inf")
    call("filter_data", org, kept, *limits, "--allow_empty_text")
    assert read_table(kept / "text") == texts
    folder = tmp_path / "asr_x_mtla" / "decode_b" / "raw"
    options = ("--output_dir", folder, "--beam_size", 2, "--min_length_ratio", 0.2)
    call("inference", "--model_dir", model, "--data", kept, *options)
    heard = read_table(folder / "1best_recog" / "text")
    assert heard.keys() == texts.keys() and heard["u1"]
    files = ("--ref", kept / "text", "--hyp", folder / "1best_recog" / "text")
    call("score", "wer", *files, "--output_dir", folder / "score_wer")
    lines = (folder / "score_wer" / "utterances.jsonl").read_text().splitlines()
    (row,) = (row for row in map(json.loads, lines) if row["key"] == "u1")
    assert (row["ref_words"], row["ins"]) == (0, len(heard["u1"].split()))
    capsys.readouterr()
    output = tmp_path / "RESULTS.md"
    call("results", "--exp", tmp_path / "asr_x_mtla", "--output", output)
    assert "references without a word: 1;" in capsys.readouterr().out
    assert "references without a word: 1;" in output.read_text()

"""Recordings that are left out are counted up to the table of results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.score.render import conditions
from espnet_mtla.score.results import collect
from test.support.scored_experiments import make_experiment
from test.support.toy_folder import RATE, TEXTS, tone

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def damaged(toy: Path) -> Path:
    """The toy folder with one recording of text and one segment past its end."""
    soundfile.write("toy/long.wav", tone(2.0), RATE)
    Path("toy/bad.wav").write_text("no sound at all")
    places = {"long": "toy/long.wav", "bad": "toy/bad.wav"}
    spans = {"a1": "long 0 1", "a2": "long 1 2", "b/3": "bad 0 1", "é4": "long 3 4"}
    write_table(toy / "wav.scp", places)
    write_table(toy / "segments", spans)
    return toy


def test_validation_leaves_bad_recordings_to_formatting(
    damaged: Path, command: Command
) -> None:
    code, out, err = command("validate_data", damaged)
    assert code == 1 and "2 problems" in err
    code, out, err = command("validate_data", damaged, "--drop_bad")
    assert code == 0, err
    assert "wav.scp:1: bad: unusable audio" in out
    assert "segments:4: é4: outside the recording" in out
    assert "2 cannot be read" in err and "no problems" not in err
    write_table(damaged / "text", {**TEXTS, "b/3": ""})  # another fault is one still
    assert command("validate_data", damaged, "--drop_bad")[0] == 1


def test_scores_and_tables_say_how_many_were_left_out(
    damaged: Path, command: Command
) -> None:
    assert command("format_audio", damaged, "org", "--drop_bad")[0] == 0
    assert command("filter_data", "org", "dump")[0] == 0
    assert set(read_table("dump/dropped")) == {"b/3", "é4"}
    folder = make_experiment(Path(), "asr_x_mha", "mha") / "decode_beam10/test"
    output = folder / "score_wer"
    texts = ("--ref", "dump/text", "--hyp", "dump/text", "--output_dir", output)
    code, out, err = command("score", "wer", *texts)
    assert code == 0, err
    assert "2 of 4 utterances were scored: dump/dropped lists those left out" in out
    assert json.loads((output / "score.json").read_text())["whole_set"] == 4
    (table,) = collect([Path("asr_x_mha")])
    assert conditions(table)[0].startswith("2 of 4 utterances, 6 words of reference")


def test_a_repaired_recording_is_no_longer_left_out(
    damaged: Path, command: Command
) -> None:
    assert command("format_audio", damaged, "org", "--drop_bad")[0] == 0
    write_table(damaged / "dropped", {"a1": "was bad once", "gone": "no sound"})
    write_table(damaged / "segments", {key: "long 0 1" for key in TEXTS})
    assert command("format_audio", damaged, "org", "--drop_bad")[0] == 0
    assert read_table("org/dropped") == {"gone": "no sound"}

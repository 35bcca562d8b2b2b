"""filter_data: every reason, counts that add up, and nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from espnet_mtla.data.audio_shards import Settings
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.format import format_audio
from espnet_mtla.data.table import read_table, write_table
from test.support.toy_folder import TEXTS

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def formatted(toy: Path) -> Path:
    """Return the toy folder, 1.0 to 1.6 s, after format_audio."""
    format_audio(toy, "dump", Settings())
    return Path("dump")


def test_every_reason_is_counted(formatted: Path, command: Command) -> None:
    write_table(formatted / "text", TEXTS | {"b/3": ""})
    options = ["--min_seconds", 1.1, "--max_seconds", 1.5]
    code, out, err = command("filter_data", formatted, "out", *options)
    assert code == 0, err
    counts = {line[:30].strip(): int(line[30:39]) for line in out.splitlines()[1:]}
    assert counts == {
        "in": 4,
        "dropped, too short": 1,
        "dropped, empty text": 1,
        "dropped, too long": 1,
        "kept": 1,
    }
    assert DataFolder.read("out").utterances == ["a2"]
    assert read_table("out/dropped") == {
        "a1": "too short: 1.00 s, at least 1.1 s",
        "b/3": "empty text: text",
        "é4": "too long: 1.60 s, at most 1.5 s",
    }
    assert Path("out/audio_format").read_text() == "flac\n"
    assert read_table("out/wav.scp")["a2"] == read_table("dump/wav.scp")["a2"]


def test_a_test_set_keeps_its_empty_texts(formatted: Path, command: Command) -> None:
    write_table(formatted / "text", TEXTS | {"b/3": ""})
    write_table(formatted / "text.tc.de", TEXTS | {"a1": ""})
    code, out, err = command("filter_data", formatted, "out", "--allow_empty_text")
    assert code == 0, err
    assert "dropped" not in out
    assert read_table("out/text") == TEXTS | {"b/3": ""}
    assert read_table("out/dropped") == {}


def test_characters_of_every_text(formatted: Path, command: Command) -> None:
    write_table(formatted / "text.tc.de", TEXTS | {"a1": "x" * 23})
    code, _, err = command("filter_data", formatted, "out", "--max_chars", 22)
    assert code == 0, err
    dropped = {"a1": "too many characters: 23 in text.tc.de, at most 22"}
    assert read_table("out/dropped") == dropped
    assert read_table("out/text.tc.de").keys() == TEXTS.keys() - {"a1"}


def test_limits_include_their_ends(formatted: Path, command: Command) -> None:
    options = ["--min_seconds", 1.0, "--max_seconds", 1.6, "--max_chars", 22]
    code, out, err = command("filter_data", formatted, "out", *options)
    assert code == 0, err
    assert "dropped" not in out
    assert read_table("out/dropped") == {}


def test_nothing_left(formatted: Path, command: Command) -> None:
    code, _, err = command("filter_data", formatted, "out", "--max_seconds", 0.5)
    assert code == 1
    assert "no utterance is left of 4; the first, a1, is too long: 1.00 s" in err
    assert not Path("out").exists()


def test_length_from_the_sound_itself(formatted: Path, command: Command) -> None:
    (formatted / "utt2dur").unlink()
    code, _, err = command("filter_data", formatted, "out", "--max_seconds", 1.3)
    assert code == 0, err
    assert sorted(read_table("out/text")) == ["a1", "a2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min_seconds", 2, "--max_seconds", 1], "--min_seconds 2 must be below"),
        (["--max_chars", 0], "--max_chars 0"),
    ],
)
def test_bad_limits(
    formatted: Path, command: Command, options: list[object], message: str
) -> None:
    code, _, err = command("filter_data", formatted, "out", *options)
    assert (code, message in err) == (1, True)


def test_bad_input(formatted: Path, command: Command) -> None:
    code, _, err = command("filter_data", "missing", "out")
    assert (code, "missing: no such data folder" in err) == (1, True)
    code, _, err = command("filter_data", "toy", "dump")
    assert (code, "holds the folder 'data'" in err) == (1, True)
    write_table(formatted / "utt2dur", dict.fromkeys(TEXTS, "long"))
    code, _, err = command("filter_data", formatted, "out")
    assert (code, "utt2dur: a1: 'long' is not a length" in err) == (1, True)
    write_table(formatted / "segments", {"a1": "a1 0 1"})
    write_table(formatted / "wav.scp", {"a1": "x"})
    for name in ("text", "utt2spk", "utt2dur", "utt2num_samples"):
        write_table(formatted / name, {"a1": "1"})
    code, _, err = command("filter_data", formatted, "out")
    assert (code, "has segments; run espnet-mtla format_audio" in err) == (1, True)

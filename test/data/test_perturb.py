"""perturb_speed: names, tables and lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.perturb import parse_factor, perturb_speed
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError
from test.support.toy_folder import RATE, TEXTS

Command = Callable[..., tuple[int, str, str]]


def test_each_utterance_once_a_factor(toy: Path, command: Command) -> None:
    write_table(toy / "text.tc.de", TEXTS)
    write_table(toy / "utt2dur", dict.fromkeys(TEXTS, "1.0"))
    code, _, err = command("perturb_speed", toy, "out", "--factors", "0.9", "1", "1.10")
    assert code == 0, err
    assert "12 utterances = 4 x 3 factors" in err
    made = DataFolder.read("out")
    expected = {before + key for before in ("sp0.9-", "", "sp1.1-") for key in TEXTS}
    assert set(made.utterances) == expected
    for key in TEXTS:
        for before, factor in (("sp0.9-", "0.9"), ("", "1.0"), ("sp1.1-", "1.1")):
            assert made.tables["utt2speed"][before + key] == factor
            assert made.tables["utt2spk"][before + key] == before + key[0]
            assert made.tables["text.tc.de"][before + key] == TEXTS[key]
            assert made.wav[before + key] == read_table(toy / "wav.scp")[key]
    assert read_table("out/spk2utt")["sp0.9-a"] == "sp0.9-a1 sp0.9-a2"
    assert "utt2dur" not in made.tables, "lengths change"


def test_lengths_follow_the_factor(toy: Path, command: Command) -> None:
    perturb_speed(toy, "sp", ["0.9", "1.1"])
    code, _, err = command("format_audio", "sp", "out")
    assert code == 0, err
    for key, count in read_table("out/utt2num_samples").items():
        index = list(TEXTS).index(key.split("-", 1)[1])
        expected = round((1 + 0.2 * index) * RATE) / float(key[2:5])
        assert abs(int(count) - expected) <= 0.5


def test_segments_keep_their_recordings(toy: Path) -> None:
    write_table(toy / "segments", {key: "long 0 1" for key in TEXTS})
    write_table(toy / "wav.scp", {"long": "toy/0.wav"})
    made = perturb_speed(toy, "out", ["0.9"])
    assert made.wav == {"long": "toy/0.wav"}
    assert made.segments["sp0.9-a1"] == "long 0 1"


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (["0.9", "0.90"], "occurs twice"),
        (["fast"], "is not a number"),
        (["0"], "between 0.1 and 10"),
        (["nan"], "between 0.1 and 10"),
    ],
)
def test_bad_factors(
    toy: Path, command: Command, factors: list[str], message: str
) -> None:
    code, _, err = command("perturb_speed", toy, "out", "--factors", *factors)
    assert (code, message in err) == (1, True)
    assert not Path("out").exists()


def test_twice_and_clashing_names(toy: Path) -> None:
    perturb_speed(toy, "sp", ["0.9", "1.0"])
    with pytest.raises(UserError, match="changed already"):
        perturb_speed("sp", "again", ["0.9"])
    Path("sp/utt2speed").unlink()
    with pytest.raises(UserError, match="would become the same utterance"):
        perturb_speed("sp", "again", ["1.0", "0.9"])


@given(st.floats(0.1, 10))
def test_factor_is_written_one_way(factor: float) -> None:
    assert parse_factor(parse_factor(repr(factor))) == parse_factor(repr(factor))
    assert float(parse_factor(f"{factor!r}")) == factor

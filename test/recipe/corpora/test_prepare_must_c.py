"""MuST-C: segments, texts, speakers and splits, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espnet_mtla.data.folder import DataFolder, parse_segment
from espnet_mtla.errors import UserError
from test.support.must_c_corpus import TALKS, entry, write_must_c, write_texts


@pytest.fixture(scope="module")
def must_c(load_local) -> ModuleType:
    return load_local("must_c/st1")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """``data`` of a corpus with one talk of four seconds a split, one entry each."""
    return write_must_c(tmp_path / "corpus", talks=1, entries=2)


def rewrite(
    data: Path, rows: list[dict], english: list[str], german: list[str]
) -> None:
    write_texts(data / "train", "train", "de", rows, english, german)


def prepare(must_c: ModuleType, data: Path, drop_bad: bool = False) -> DataFolder:
    """Train of the corpus, as it was written."""
    must_c.prepare(data, "de", data.parent / "out", drop_bad=drop_bad)
    return DataFolder.read(data.parent / "out" / "train.en-de")


def test_all_that_is_written(must_c: ModuleType, tmp_path: Path, capsys) -> None:
    write_must_c(tmp_path, talks=2, entries=5)
    must_c.prepare(tmp_path, "de", tmp_path / "data")
    folders = {
        name: DataFolder.read(tmp_path / "data" / f"{name}.en-de")
        for name in ("train", "dev", "tst-COMMON", "tst-HE")
    }
    assert {n: len(f.utterances) for n, f in folders.items()} == {
        "train": 10,
        "dev": 5,
        "tst-COMMON": 5,
        "tst-HE": 5,
    }
    train = folders["train"]
    assert set(train.wav) == {"ted_767", "ted_1922"}
    wav = tmp_path / "en-de/data/train/wav/ted_767.wav"
    assert train.wav["ted_767"] == str(wav)
    key = "ted_767_0002"
    assert train.segments[key] == "ted_767 4.500000 6.000000"
    assert {name: table[key] for name, table in train.tables.items()} == {
        "text": "Vielen Dank, Chris!",
        "text.tc.de": "Vielen Dank, Chris!",
        "text.tc.en": "Thank you — so much, Chris!",
        "text.lc.rm.en": "thank you so much chris",
        "utt2spk": "spk.767",
    }
    # Notes stand for music: no words, and still nothing is lost.
    assert train.tables["text.lc.rm.en"]["ted_767_0003"] == "\u266b \u266b"
    assert "train: 10 entries in, 10 kept, 0 dropped" in capsys.readouterr().out


def test_another_language_stands_beside_it(must_c: ModuleType, tmp_path: Path) -> None:
    for language in ("de", "fr"):
        write_must_c(tmp_path, language, talks=1, entries=1)
        must_c.prepare(tmp_path, language, tmp_path / "data")
    folder = DataFolder.read(tmp_path / "data" / "dev.en-fr")
    assert folder.tables["text"] == {
        "ted_13_0000": "C'est vraiment un honneur d'être ici."
    }
    assert "text.tc.fr" in folder.tables
    assert "text.tc.de" not in folder.tables


def test_later_releases(must_c: ModuleType, corpus: Path) -> None:
    """Six decimals, whole numbers, rW and uW; talks in any order, numbered apart."""
    rows = [
        entry(1922, 2.5, 1.234567, rW=4, uW=0),
        entry(767, 1, 2),
        entry(1922, 0.000001, 0.5, rW=9),
    ]
    (corpus / "train/wav/ted_767.wav").symlink_to(corpus / "train/wav/ted_1922.wav")
    rewrite(corpus, rows, ["A.", "B.", "C."], ["a", "b", "c"])
    folder = prepare(must_c, corpus)
    assert folder.segments == {
        "ted_1922_0000": "ted_1922 2.500000 3.734567",
        "ted_1922_0001": "ted_1922 0.000001 0.500001",
        "ted_767_0000": "ted_767 1.000000 3.000000",
    }
    assert folder.tables["text"]["ted_1922_0001"] == "c"


def test_block_style_and_line_separators(must_c: ModuleType, corpus: Path) -> None:
    """YAML as a dumper writes it; a text with a character that ends lines elsewhere."""
    listing = corpus / "train/txt/train.yaml"
    listing.write_text(
        "- duration: 1.0\n  offset: 0.5\n  speaker_id: spk.1\n  wav: ted_1922.wav\n"
    )
    for language in ("en", "de"):
        text = "one\u2028two\x85three \r\n"
        (corpus / f"train/txt/train.{language}").write_text(text, newline="")
    folder = prepare(must_c, corpus)
    assert folder.tables["text"] == {"ted_1922_0000": "one two three"}


def test_empty_lines_are_dropped_and_counted(
    must_c: ModuleType, corpus: Path, capsys
) -> None:
    rows = [entry(1922, offset, 0.5) for offset in (0, 1, 2)]
    rewrite(corpus, rows, ["A.", " ", "C."], ["", "b", "c"])
    assert prepare(must_c, corpus).utterances == ["ted_1922_0002"]
    output = capsys.readouterr().out
    assert "train: 3 entries in, 1 kept, 2 dropped" in output
    assert "train:   2 with an empty text, such as ted_1922_0000" in output


def test_talks_on_both_sides_are_said(must_c: ModuleType, corpus: Path, capsys) -> None:
    (corpus / "tst-HE/wav/ted_1922.wav").symlink_to(corpus / "train/wav/ted_1922.wav")
    rows = [entry(1922, 0, 1)]
    write_texts(corpus / "tst-HE", "tst-HE", "de", rows, ["A."], ["a"])
    prepare(must_c, corpus)
    output = capsys.readouterr().out
    assert "tst-HE: 1 talks are in train, too, first ted_1922" in output


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (entry(1922, 4.0, 2.0), r"beyond the end.*4 s \+ 2 s of ted_1922.wav.* 5.00 s"),
        (entry(1922, 5.0, 0.1), "beyond the end of the sound: ted_1922_0001"),
        (entry(1922, 1.0, 0.0), "offset and duration are no part.*ted_1922_0001"),
        (entry(1922, -1.0, 2.0), "offset and duration are no part.*ted_1922_0001"),
        (entry(1922, 1.0, float("nan")), "offset and duration are no part"),
        (entry(77, 1.0, 1.0), r"unusable sound file: ted_77_0000.*ted_77.wav: no such"),
        (entry(1922, 0.5, 1.0), "occurs twice: ted_1922_0001 and ted_1922_0000"),
    ],
)
def test_entries_that_cannot_be_cut(
    must_c: ModuleType, corpus: Path, capsys, row: dict, message: str
) -> None:
    """An error that names list and entry; with --drop_bad, one less, and a reason."""
    rows = [entry(1922, 0.5, 1.0), row]
    rewrite(corpus, rows, ["A.", "B."], ["a", "b"])
    with pytest.raises(UserError, match=rf"train\.yaml: .*{message}.*--drop_bad$"):
        prepare(must_c, corpus)
    assert not (corpus.parent / "out").exists()
    assert prepare(must_c, corpus, drop_bad=True).utterances == ["ted_1922_0000"]
    output = capsys.readouterr().out
    assert "train: 2 entries in, 1 kept, 1 dropped" in output
    assert re.search(r"train:   1 .*, such as ted_", output)


def test_times_rounded_past_the_end_are_let_pass(
    must_c: ModuleType, corpus: Path
) -> None:
    rewrite(corpus, [entry(1922, 4.0, 1.02)], ["A."], ["a"])
    assert len(prepare(must_c, corpus).utterances) == 1


@pytest.mark.parametrize(
    "name",
    ["train.yaml", "dev.en", "tst-COMMON.de", "tst-HE.yaml"],
)
def test_missing_file(must_c: ModuleType, corpus: Path, name: str) -> None:
    split = name.rsplit(".", 1)[0]
    (corpus / split / "txt" / name).unlink()
    with pytest.raises(UserError, match=rf"{re.escape(name)}: no such file"):
        prepare(must_c, corpus)


def test_another_language_than_there_is(must_c: ModuleType, corpus: Path) -> None:
    with pytest.raises(UserError, match=r"train\.ru: no such file.*en-ru.*--corpus"):
        must_c.prepare(corpus, "ru", corpus.parent / "out")


@pytest.mark.parametrize("language", ["en", "de"])
def test_unequal_line_counts(must_c: ModuleType, corpus: Path, language: str) -> None:
    with open(corpus / f"train/txt/train.{language}", "a") as stream:
        stream.write("one more\n")
    message = rf"train\.{language}: 3 lines, but the list .* 2 entries"
    with pytest.raises(UserError, match=message):
        prepare(must_c, corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {duration: 1, offset: [\n", r"train\.yaml: broken"),
        ("a: 1\n", "not a list"),
        ("", "not a list"),
        ("- 7\n", "entry 1: not fields"),
        ("- {duration: 1, offset: 2, wav: a.wav}\n", "entry 1: no speaker_id"),
        (
            "- {duration: x, offset: 2, speaker_id: s, wav: a.wav}\n",
            "entry 1: offset 2 and duration 'x' must be numbers",
        ),
        (
            "- {duration: 1, offset: 2, speaker_id: s, wav: ../a.wav}\n",
            r"entry 1: unusable name '\.\./a\.wav'",
        ),
        ("- !!python/object/apply:os.getcwd []\n", "broken"),
    ],
)
def test_bad_list(must_c: ModuleType, corpus: Path, text: str, message: str) -> None:
    (corpus / "train/txt/train.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare(must_c, corpus)


def test_truncated_sound(must_c: ModuleType, corpus: Path) -> None:
    path = corpus / "train/wav/ted_1922.wav"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"ted_1922\.wav: truncated"):
        prepare(must_c, corpus)


@given(offset=st.floats(-1, 9), duration=st.floats(-1, 9) | st.just(1e-9))
def test_what_is_no_fault_can_be_cut(
    must_c: ModuleType, offset: float, duration: float
) -> None:
    """As ``segments`` is read, of a talk of 5 s: a piece of it, of some length."""
    entry = must_c.Entry("talk", "speaker", offset, duration)
    reason, _ = must_c.fault(entry, 5.0)
    written = f"talk {offset:.6f} {offset + duration:.6f}"
    try:
        span = parse_segment(written)
        fits = span.end is not None and span.start < 5 and span.end <= 5.5
    except ValueError:
        fits = False
    # Half a millionth of a second is nobody's matter.
    edges = (abs(offset), abs(offset - 5), abs(offset + duration - 5.5))
    assert (not reason) == fits or min(edges) < 1e-6


@example(text="0-_")
@given(text=st.text(max_size=60))
def test_normalised_text_is_clean_and_stays_so(must_c: ModuleType, text: str) -> None:
    line = " ".join(text.split())
    made = must_c.normalise(line)
    assert bool(made) == bool(line)
    assert must_c.normalise(made) == made
    if re.search(r"[^\W_]", line):
        assert not re.search(r"[.,!?()\"_]", made)


def test_every_split_has_a_talk_of_its_own() -> None:
    numbers = [number for talks in TALKS.values() for number in talks]
    assert len(set(numbers)) == len(numbers)

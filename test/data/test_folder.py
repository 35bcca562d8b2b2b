"""Tables and folders: what is read is what was written, and bad lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet_mtla.data.folder import DataFolder, parse_segment, refuse_replacing
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError

# Any printable text; keys without white space of any kind.
CHARACTERS = st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"))
KEYS = st.text(CHARACTERS, min_size=1).filter(lambda key: not key.startswith("\ufeff"))
VALUES = st.text(st.one_of(CHARACTERS, st.just(" "))).map(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.dictionaries(KEYS, VALUES))
def test_round_trip_and_byte_order(tmp_path: Path, table: dict[str, str]) -> None:
    path = tmp_path / "text"
    write_table(path, table)
    assert read_table(path) == table
    keys = [line.split(b" ")[0] for line in path.read_bytes().split(b"\n")[:-1]]
    assert keys == sorted(keys)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.dictionaries(KEYS, VALUES, min_size=1))
def test_espnet_reads_what_we_write(tmp_path: Path, table: dict[str, str]) -> None:
    from espnet2.fileio.read_text import read_2columns_text

    write_table(tmp_path / "text", table)
    assert read_2columns_text(tmp_path / "text") == table


def test_windows_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\thello  world \r\nb\r\n")
    assert read_table(path) == {"a": "hello  world", "b": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a x\na y\n", ":2: key 'a' occurs twice"),
        (b"a x\n\nb y\n", ":2: empty line"),
        (b"a x\nb \xff\n", ":2: not UTF-8"),
        (b"a x\rb y\n", ":1: control character"),
        ("a\u00a0b x\n".encode(), ":1: white space of another kind"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "text")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wav\.scp: no such file"):
        read_table(tmp_path / "wav.scp")


@pytest.mark.parametrize("table", [{"a b": "x"}, {"": "x"}, {"a": "x\ny"}])
def test_unreadable_table_is_not_written(tmp_path: Path, table: dict[str, str]) -> None:
    with pytest.raises(UserError):
        write_table(tmp_path / "text", table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", ["r 1", "r x 2", "r 2 1", "r -1 2", "r 0 nan", "r 0 inf"]
)
def test_bad_segment(value: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_segment(value)


def test_segment_to_the_end() -> None:
    assert parse_segment("rec 1.5 -1").end is None


def test_folder_names_the_utterance_that_a_table_lacks(toy: Path) -> None:
    text = read_table(toy / "text")
    del text["a2"]
    write_table(toy / "text.tc.de", text)
    with pytest.raises(UserError, match=r"'a2' is in wav.scp but not in text.tc.de"):
        DataFolder.read(toy)


def test_extra_texts_and_speaker_tables_are_carried(toy: Path, tmp_path: Path) -> None:
    write_table(toy / "text.tc.de", read_table(toy / "text"))
    write_table(toy / "spk2gender", {"a": "f", "b": "m", "é": "f"})
    (toy / "text.bak").write_text("an editor's copy")
    DataFolder.read(toy).select(["a1", "b/3"]).write(tmp_path / "out")
    assert sorted(read_table(tmp_path / "out" / "text.tc.de")) == ["a1", "b/3"]
    assert read_table(tmp_path / "out" / "spk2gender") == {"a": "f", "b": "m"}
    assert read_table(tmp_path / "out" / "spk2utt") == {"a": "a1", "b": "b/3"}
    assert not (tmp_path / "out" / "text.bak").exists()


def test_without_utt2spk_each_utterance_is_its_speaker(toy: Path) -> None:
    (toy / "utt2spk").unlink()
    folder = DataFolder.read(toy)
    assert folder.tables["utt2spk"] == {key: key for key in folder.utterances}


def test_folder_with_sound_is_not_replaced(toy: Path) -> None:
    Path("out/data").mkdir(parents=True)
    with pytest.raises(UserError, match="holds the folder 'data'"):
        refuse_replacing(toy, "out")
    with pytest.raises(UserError, match="same folder"):
        refuse_replacing(toy, "toy/../toy")

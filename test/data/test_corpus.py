"""What the preparation of every corpus shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from espnet_mtla.data.corpus import (
    corpus_parser,
    find_folder,
    read_jsonl,
    require_file,
    write_sets,
)
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError


def test_options_of_every_recipe() -> None:
    parser = corpus_parser("What it is.", "where it is", "what is left out")
    args = parser.parse_args(["--corpus", "x"])
    assert (args.corpus, args.data, args.drop_bad) == (Path("x"), Path("data"), False)
    with pytest.raises(UserError, match=r"required: --corpus; .*--local_data_opts"):
        parser.parse_args([])
    with pytest.raises(UserError, match=r"unrecognized arguments: --speed 2$"):
        parser.parse_args(["--corpus", "x", "--speed", "2"])
    assert corpus_parser(None, "", "", required=False).parse_args([]).corpus is None


def test_the_first_place_is_taken_and_named(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(UserError) as caught:
        find_folder(places, "in/it.txt", "try --corpus")
    assert str(caught.value) == f"{places[0]}/in/it.txt: no such file; try --corpus"
    (tmp_path / "two/in").mkdir(parents=True)
    (tmp_path / "two/in/it.txt").touch()
    assert find_folder(places, "in/it.txt", "") == places[1]
    assert require_file(tmp_path / "two/in/it.txt").is_file()


def test_lines_of_json(tmp_path: Path) -> None:
    """A byte-order mark, empty lines and separators inside texts are accepted."""
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": "x\u2028y"}\n\n{"b": 1}\n\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [(1, {"a": "x\u2028y"}), (3, {"b": 1})]
    path.write_text('{"a": 1}\n7\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not a JSON object"):
        list(read_jsonl(path))
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not JSON \('utf-8' codec"):
        list(read_jsonl(path))


def test_sets_of_sound_and_of_texts(tmp_path: Path) -> None:
    """The folder is replaced: no table of an earlier run is left."""
    (tmp_path / "data/dev").mkdir(parents=True)
    (tmp_path / "data/dev/text.old").touch()
    sound = DataFolder(tmp_path, {"a": "a.wav"}, {"utt2spk": {"a": "s"}})
    texts = {"text": {"b": "short"}, "text.source": {"b": "long"}}
    write_sets(tmp_path / "data", {"train": sound, "dev": texts})
    assert read_table(tmp_path / "data/train/spk2utt") == {"s": "a"}
    assert read_table(tmp_path / "data/dev/text.source") == {"b": "long"}
    assert not (tmp_path / "data/dev/text.old").exists()


def test_nobody_says_who_speaks(tmp_path: Path) -> None:
    """A preparation may leave speakers out; read again, each utterance has its own."""
    sound = DataFolder(tmp_path, {"a": "a.wav", "b": "b.wav"}, {"text": {}})
    sound.tables["text"].update(a="x", b="y")
    write_sets(tmp_path, {"train": sound})
    assert not (tmp_path / "train/spk2utt").exists()
    assert DataFolder.read(tmp_path / "train").tables["utt2spk"] == {"a": "a", "b": "b"}


def test_all_sets_are_written_or_none(tmp_path: Path) -> None:
    """Texts that no table can contain are named with the table and the key."""
    sets = {"train": {"text": {"a": "fine"}}, "dev": {"text": {"b": "x\0y"}}}
    with pytest.raises(UserError, match=r"^dev/text: 'b': line break, NUL"):
        write_sets(tmp_path, sets)
    sets["dev"]["text"]["b"] = json.loads('"half an emoji: \\ud83d"')
    with pytest.raises(UserError, match=r"'b': .*surrogate: 'half"):
        write_sets(tmp_path, sets)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_is_refused_and_none_is_written(tmp_path):
    full = {"text": {"a": "x"}}
    sound = DataFolder(tmp_path, wav={"a": "a.wav"}, tables={})
    for empty in ({}, {"text": {}}, DataFolder(tmp_path, wav={}, tables={"text": {}})):
        with pytest.raises(UserError, match="test: no utterances; nothing is written"):
            write_sets(tmp_path / "data", {"train": full, "test": empty})
    assert not (tmp_path / "data").exists()
    write_sets(tmp_path / "data", {"train": full, "test": sound})

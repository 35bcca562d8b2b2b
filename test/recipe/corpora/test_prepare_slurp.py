"""SLURP: intents, speakers, real and synthetic speech, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError
from test.support.slurp_corpus import SAMPLE, read_lines, write_lines, write_slurp

FIRST = "audio-1434542201"
"""The first recordings of the published lines, with a headset and without."""


@pytest.fixture(scope="module")
def slurp(load_local) -> ModuleType:
    return load_local("slurp/slu1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = tmp_path_factory.mktemp("slurp") / "corpus"
    write_slurp(corpus, sentences=4, seconds=0.2)
    return corpus


@pytest.fixture
def lists(made: Path, tmp_path: Path) -> Path:
    """The lists of a corpus that a test may spoil."""
    shutil.copytree(made, tmp_path / "corpus")
    return tmp_path / "corpus" / "dataset" / "slurp"


def prepare(
    slurp: ModuleType, lists: Path, drop_bad: bool = False, synthetic: bool = True
) -> dict[str, DataFolder]:
    corpus = lists.parents[1]
    source = slurp.Source(lists, slurp.find_audio(corpus), drop_bad)
    slurp.prepare(source, corpus.parent / "data", synthetic)
    return {
        name: DataFolder.read(corpus.parent / "data" / name)
        for name in ("train", "devel", "test")
    }


def test_all_that_is_written(slurp: ModuleType, lists: Path, capsys) -> None:
    folders = prepare(slurp, lists)
    assert {n: len(f.utterances) for n, f in folders.items()} == {
        "train": 12,  # four sentences: two recordings each, and one synthetic
        "devel": 8,
        "test": 8,
    }
    train = folders["train"]
    key = "synthetic_train_synthetic0-audio-1490201253-headset"
    audio = lists.parents[1] / "audio"
    sound = "slurp_synth/train_synthetic0-audio-1490201253-headset.flac"
    assert train.wav[key] == str(audio / sound)
    assert train.tables["text"][key] == "takeaway_order order me chinese food"
    assert train.tables["utt2spk"][key] == "synthetic"
    # Train comes first, and the second recording is of the second speaker.
    key = f"MO-222_train0-{FIRST}"
    assert train.wav[key] == str(audio / f"slurp_real/train0-{FIRST}.flac")
    assert train.tables["utt2spk"][key] == "MO-222"
    output = capsys.readouterr().out
    assert "train_synthetic: 4 recordings in, 4 kept, 0 dropped" in output
    assert "devel: 4 intents" in output


def test_real_speech_alone(slurp: ModuleType, lists: Path) -> None:
    shutil.rmtree(lists.parents[1] / "audio" / "slurp_synth")
    (lists / "train_synthetic.jsonl").unlink()
    folders = prepare(slurp, lists, synthetic=False)
    assert "synthetic" not in folders["train"].tables["utt2spk"].values()
    assert len(folders["train"].utterances) == 8


def test_published_lines(slurp: ModuleType, tmp_path: Path) -> None:
    """All lines of the sample and all their recordings, under their own names."""
    lists = write_slurp(tmp_path / "corpus", recordings=99, seconds=0.05)
    devel = prepare(slurp, lists)["devel"]
    rows = read_lines(SAMPLE)
    stems = {
        recording["file"].removesuffix(".flac"): f"{row['intent']} {row['sentence']}"
        for row in rows
        for recording in row["recordings"]
    }
    texts = devel.tables["text"]
    assert {key.split("_", 1)[1]: text for key, text in texts.items()} == stems
    assert len(texts) == 44
    text = "qa_currency siri what is one american dollar in japanese yen"
    assert stems[FIRST] == text


def test_places_of_lists_and_sound(slurp: ModuleType, lists: Path) -> None:
    corpus = lists.parents[1]
    assert slurp.find_lists(corpus) == slurp.find_lists(lists) == lists
    assert slurp.find_audio(corpus) == corpus / "audio"
    (corpus / "scripts").mkdir()
    (corpus / "audio").rename(corpus / "scripts" / "audio")
    assert slurp.find_audio(corpus) == corpus / "scripts" / "audio"


def test_sentences_without_text_are_counted(
    slurp: ModuleType, lists: Path, capsys
) -> None:
    rows = read_lines(lists / "test.jsonl")
    rows[1]["sentence"] = "  "
    write_lines(lists / "test.jsonl", rows)
    assert len(prepare(slurp, lists)["test"].utterances) == 6
    output = capsys.readouterr().out
    assert "test: 8 recordings in, 6 kept, 2 dropped" in output
    assert "test:   2 without a sentence, such as line 2: test0-audio-" in output


def test_sentences_without_recordings_are_said(
    slurp: ModuleType, lists: Path, capsys
) -> None:
    path = lists / "devel.jsonl"
    entries = read_lines(path)
    entries[1]["recordings"] = []
    write_lines(path, entries)
    prepare(slurp, lists)
    output = capsys.readouterr().out
    assert "devel: 1 sentences without a recording, such as line 2" in output
    assert "devel: 6 recordings in, 6 kept" in output


def test_the_same_twice_counts_once(slurp: ModuleType, lists: Path, capsys) -> None:
    rows = read_lines(lists / "train.jsonl")
    write_lines(lists / "train.jsonl", [*rows, rows[0]])
    assert len(prepare(slurp, lists)["train"].utterances) == 12
    assert "train:   2 that occur twice, such as line 5" in capsys.readouterr().out


def spoil_sound(lists: Path) -> None:
    next((lists.parents[1] / "audio" / "slurp_real").glob(f"train0-{FIRST}*")).unlink()


def spoil_speaker(lists: Path) -> None:
    metadata = json.loads((lists / "metadata.json").read_text())
    del metadata["13804"]["recordings"][f"train0-{FIRST}.flac"]
    (lists / "metadata.json").write_text(json.dumps(metadata))


def spoil_usrid(lists: Path) -> None:
    path = lists / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["13804"]["recordings"][f"train0-{FIRST}.flac"] = {}
    path.write_text(json.dumps(metadata))


def spoil_intent(lists: Path) -> None:
    rows = read_lines(lists / "train.jsonl")
    rows[0]["scenario"] = None
    rows[0]["recordings"] = rows[0]["recordings"][:1]
    write_lines(lists / "train.jsonl", rows)


def tell_otherwise(lists: Path) -> None:
    rows = read_lines(lists / "train.jsonl")
    other = {**rows[0], "sentence": "something else"}
    rows.append({**other, "recordings": rows[0]["recordings"][:1]})
    write_lines(lists / "train.jsonl", rows)


def train_on_test(lists: Path) -> None:
    rows = read_lines(lists / "test.jsonl")
    rows[0]["recordings"] = rows[0]["recordings"][:1]
    with open(lists / "train.jsonl", "a") as stream:
        stream.write(f"{json.dumps(rows[0])}\n")


def end_otherwise(lists: Path) -> None:
    """Another file that would get the same key."""
    rows = read_lines(lists / "train.jsonl")
    name = f"train0-{FIRST}"
    real = lists.parents[1] / "audio" / "slurp_real"
    shutil.copy(real / f"{name}.flac", real / f"{name}.wav")
    metadata = json.loads((lists / "metadata.json").read_text())
    about = metadata["13804"]["recordings"]
    about[f"{name}.wav"] = about[f"{name}.flac"]
    (lists / "metadata.json").write_text(json.dumps(metadata))
    take = {**rows[0]["recordings"][0], "file": f"{name}.wav"}
    rows.append({**rows[0], "sentence": "something else", "recordings": [take]})
    write_lines(lists / "train.jsonl", rows)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_sound, r"not in .*slurp_real: line 1: train0-audio-1434542201"),
        (spoil_speaker, r"unknown speaker.*line 1: train0-audio-1434542201\.flac"),
        (spoil_usrid, r"unknown speaker, no usrid.*audio-1434542201\.flac"),
        (spoil_intent, r"no intent: line 1: train0-audio-1434542201"),
        (tell_otherwise, r"recordings that train\.jsonl has already: line 5"),
        (end_otherwise, r"recordings that train\.jsonl has already: line 5"),
        (train_on_test, r"recordings that test\.jsonl has already: line 5"),
    ],
)
def test_recordings_that_cannot_be_used(
    slurp: ModuleType, lists: Path, capsys, spoil, message: str
) -> None:
    spoil(lists)
    with pytest.raises(UserError, match=rf"train\.jsonl: {message}.*--drop_bad$"):
        prepare(slurp, lists)
    assert not (lists.parents[2] / "data").exists()
    folders = prepare(slurp, lists, drop_bad=True)
    assert len(folders["test"].utterances) == 8
    assert ", 1 dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["train.jsonl", "train_synthetic.jsonl", "devel.jsonl", "test.jsonl"],
)
def test_missing_list(slurp: ModuleType, lists: Path, name: str) -> None:
    (lists / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        prepare(slurp, slurp.find_lists(lists.parents[1]))


def test_missing_metadata_and_sound(slurp: ModuleType, lists: Path) -> None:
    (lists / "metadata.json").unlink()
    with pytest.raises(UserError, match=r"^[^(]*metadata\.json: no such file"):
        prepare(slurp, lists)
    shutil.rmtree(lists.parents[1] / "audio" / "slurp_synth")
    with pytest.raises(UserError, match=r"slurp_synth: no such folder.*--audio"):
        prepare(slurp, lists)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"devel\.jsonl:1: not JSON"),
        ("7", r"devel\.jsonl:1: not a JSON object"),
        ('{"recordings": []}', "KeyError: 'sentence'"),
        ('{"recordings": [{}]}', "KeyError: 'file'"),
    ],
)
def test_bad_line(slurp: ModuleType, lists: Path, text: str, message: str) -> None:
    (lists / "devel.jsonl").write_text(f"{text}\n")
    with pytest.raises(UserError, match=message):
        prepare(slurp, lists)


@pytest.mark.parametrize("text", ["[]", "{", '{"1": 2}', '{"1": {}}'])
def test_bad_metadata(slurp: ModuleType, lists: Path, text: str) -> None:
    (lists / "metadata.json").write_text(text)
    with pytest.raises(
        UserError,
        match=r"metadata\.json: not (the metadata|JSON)",
    ):
        prepare(slurp, lists)

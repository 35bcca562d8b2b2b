"""XSum: the forms of a local copy, what is dropped, and a hub that does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from test.support.xsum_corpus import make_rows, write_split, write_xsum

ROOT = Path(__file__).resolve().parents[3]
SOURCE = "text.source"


@pytest.fixture(scope="module")
def xsum(load_local) -> ModuleType:
    return load_local("xsum/sum1")


def prepare(
    xsum: ModuleType, corpus: Path, drop_bad: bool = False
) -> dict[str, dict[str, str]]:
    """Summaries of train and its articles, as they were written."""
    data = corpus.parent / "data"
    xsum.prepare(corpus, data, drop_bad)
    return {name: read_table(data / "train" / name) for name in ("text", SOURCE)}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "arrow"])
def test_forms(xsum: ModuleType, tmp_path: Path, capsys, form: str) -> None:
    train = prepare(xsum, write_xsum(tmp_path / "corpus", form))
    assert len(train["text"]) == len(train[SOURCE]) == 24
    assert train["text"]["10000005"] == "In Cardiff a school opened."
    assert train[SOURCE]["10000005"] == (
        "It was day 5 of the train week. In Cardiff a school opened. People talked."
    )
    for name in ("validation", "test"):
        assert len(read_table(tmp_path / "data" / name / "text")) == 4
    assert "train: 24 articles in, 24 kept, 0 dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("train.jsonl", "train"),
        ("valid.jsonl", "validation"),
        ("default/xsum-test.parquet", "test"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("train/test/data-00000-of-00001.arrow", "test"),
        ("test/train.jsonl", "test"),
        ("train/cache-12ab.arrow", ""),
        ("train/state.json", ""),
        ("contest.jsonl", ""),
    ],
)
def test_which_set_a_file_is_of(xsum: ModuleType, path: str, owner: str) -> None:
    owners = [n for n, names in xsum.SETS.items() if xsum.belongs(Path(path), names)]
    assert owners == ([owner] if owner else [])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_empty_texts_are_counted(
    xsum: ModuleType, tmp_path: Path, capsys, form: str
) -> None:
    corpus = tmp_path / "corpus"
    for split in ("train", "validation", "test"):
        rows = make_rows(split, 5)
        rows[1]["summary"] = " \n"
        rows[2]["summary"] = None
        rows[3]["document"] = ""
        write_split(corpus, form, split, rows)
    assert list(prepare(xsum, corpus)["text"]) == ["10000000", "10000004"]
    output = capsys.readouterr().out
    assert "train: 5 articles in, 2 kept, 3 dropped" in output
    assert "train:   2 with an empty summary, such as 10000001" in output
    assert "train:   1 with an empty document, such as 10000003" in output


def test_nothing_but_empty_summaries(xsum: ModuleType, tmp_path: Path) -> None:
    corpus = write_xsum(tmp_path / "corpus", "jsonl")
    rows = [{**row, "summary": ""} for row in make_rows("test", 2)]
    write_split(corpus, "jsonl", "test", rows)
    with pytest.raises(UserError, match="no articles left of 2"):
        prepare(xsum, corpus)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_ids_that_stand_twice(
    xsum: ModuleType, tmp_path: Path, capsys, split: str
) -> None:
    """In one set, or on both sides: what is tested on is not trained on."""
    corpus = write_xsum(tmp_path / "corpus", "jsonl")
    rows = [*make_rows("train", 24), make_rows(split, 1)[0]]
    write_split(corpus, "jsonl", "train", rows)
    message = rf"id that occurs twice: {rows[-1]['id']} \(in {split}\).*--drop_bad"
    with pytest.raises(UserError, match=message):
        prepare(xsum, corpus)
    assert len(prepare(xsum, corpus, drop_bad=True)["text"]) == 24
    assert "train: 25 articles in, 24 kept, 1 dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"document": "a", "id": "1"}', r"test\.jsonl: row 1 has no 'summary'"),
        ("{", r"test\.jsonl:1: not JSON"),
        ("[1]", r"test\.jsonl:1: not a JSON object"),
        ('{"document": "a", "summary": ["b"], "id": "1"}', "row 1: 'summary' is not a"),
        (
            '{"document": "a", "summary": "b", "id": ""}',
            r"test\.jsonl: without an id: 'b'",
        ),
    ],
)
def test_bad_row(xsum: ModuleType, tmp_path: Path, line: str, message: str) -> None:
    corpus = write_xsum(tmp_path / "corpus", "jsonl")
    (corpus / "test.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        prepare(xsum, corpus)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_broken_file(xsum: ModuleType, tmp_path: Path, form: str) -> None:
    """Cut off, or, of parquet alone, whose sizes are checked, changed anywhere."""
    corpus = write_xsum(tmp_path / "corpus", form)
    path = min(corpus.rglob(f"test/*0*.{form}"))
    whole = path.read_bytes()
    broken = [whole[:40]]
    if form == "parquet":
        broken += [whole[:n] + b"\xff\xf3" + whole[n + 2 :] for n in range(4, 400, 9)]
    refused = 0
    for content in broken:
        path.write_bytes(content)
        try:
            list(xsum.read_rows(path))
        except UserError as error:
            assert f"{path.name}: broken (" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(broken) / 2


def test_missing_split_and_folder(xsum: ModuleType, tmp_path: Path) -> None:
    corpus = write_xsum(tmp_path / "corpus", "jsonl")
    (corpus / "validation.jsonl").unlink()
    with pytest.raises(UserError, match="no files of validation; all sets are"):
        prepare(xsum, corpus)
    with pytest.raises(UserError, match=r"--corpus .*nowhere: no such folder"):
        prepare(xsum, tmp_path / "nowhere")


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    """One line that names the hub and the way out; nothing is written."""
    script = ROOT / "egs2" / "xsum" / "sum1" / "local" / "prepare.py"
    env = {
        **{k: v for k, v in os.environ.items() if "proxy" not in k.lower()},
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens at this port
        "HF_HOME": str(tmp_path / "hub"),
    }
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    start = "error: http://127.0.0.1:9/datasets/EdinburghNLP/xsum: cannot be fetched"
    assert line.startswith(start)
    assert line.endswith("name a local copy with --corpus")
    assert not (tmp_path / "data").exists()

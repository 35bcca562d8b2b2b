"""XSum as its authors give it away: single articles, and the file of the three sets."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from test.support.xsum_corpus import SIZES, write_articles, write_xsum


@pytest.fixture(scope="module")
def xsum(load_local) -> ModuleType:
    return load_local("xsum/sum1")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_articles(tmp_path / "corpus")


def tables(data: Path) -> dict[str, dict[str, str]]:
    names = [f"{name}/{table}" for name in SIZES for table in ("text", "text.source")]
    return {name: read_table(data / name) for name in names}


@pytest.mark.parametrize("ending", [".summary", ".data"])
def test_the_same_texts_as_the_hub_has(
    xsum: ModuleType, tmp_path: Path, capsys, ending: str
) -> None:
    """Titles, addresses and the page's buttons are no part of an article."""
    corpus = write_articles(tmp_path / "corpus", ending)
    folder = corpus / "bbc-summary-data"
    (folder / f"._10000000{ending}").write_bytes(b"\0\xff")  # an archiver's
    left = (folder / f"10000000{ending}").read_bytes()
    (folder / f"90000000{ending}").write_bytes(left)
    xsum.prepare(corpus, tmp_path / "ours")
    output = capsys.readouterr().out
    assert "dropped: 1 articles in no set, such as 90000000\n" in output
    assert "train: 24 articles in, 24 kept, 0 dropped" in output
    xsum.prepare(write_xsum(tmp_path / "hub", "jsonl"), tmp_path / "theirs")
    assert tables(tmp_path / "ours") == tables(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"without a file of their own: 10000003"),
        (b"[SN]URL[SN]\nu\n\n[SN]RESTBODY[SN]\nSo.\n", r"FIRST-SENTENCE or RESTBODY: "),
        (b"", r"without a part FIRST-SENTENCE or RESTBODY: .*10000003\.summary"),
        (b"[SN]URL[SN]\n\xff\n", r"not UTF-8: .*10000003\.summary"),
    ],
)
def test_an_article_that_cannot_be_used(
    xsum: ModuleType, corpus: Path, capsys, content: bytes | None, message: str
) -> None:
    path = corpus / "bbc-summary-data" / "10000003.summary"
    path.unlink() if content is None else path.write_bytes(content)
    data = corpus.parent / "data"
    with pytest.raises(UserError, match=message):
        xsum.prepare(corpus, data)
    assert not data.exists()
    xsum.prepare(corpus, data, drop_bad=True)
    assert "train: 24 articles in, 23 kept, 1 dropped" in capsys.readouterr().out


def test_empty_parts_are_counted(xsum: ModuleType, corpus: Path, capsys) -> None:
    path = corpus / "bbc-summary-data" / "10000003.summary"
    path.write_text(path.read_text().split("[RESTBODY]")[0].split("In ")[0])
    path.write_text(f"{path.read_text()}\n\n[SN]RESTBODY[SN]\nSo it is.\n")
    xsum.prepare(corpus, corpus.parent / "data")
    output = capsys.readouterr().out
    assert "train:   1 with an empty summary, such as 10000003" in output


def test_an_id_in_two_sets_is_tested_on_alone(xsum: ModuleType, corpus: Path) -> None:
    (path,) = corpus.glob("*.json")
    split = json.loads(path.read_text())
    first = split["test"][0]
    split["train"].append(first)
    path.write_text(json.dumps(split))
    with pytest.raises(UserError, match=rf"occurs twice: {first} \(in test\)"):
        xsum.prepare(corpus, corpus.parent / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"0 files named .* needed, XSum-TRAINING-DEV-TEST-SPLIT-90-5-5\.json"),
        ("{", r"SPLIT-90-5-5\.json: not JSON"),
        ("[]", r"SPLIT-90-5-5\.json: not a JSON object; get the file again"),
        ('{"test": ["1"], "validation": [2]}', "no list of ids named 'validation'"),
    ],
)
def test_bad_split(
    xsum: ModuleType, corpus: Path, content: str | None, message: str
) -> None:
    (path,) = corpus.glob("*.json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        xsum.prepare(corpus, corpus.parent / "data")


def test_two_files_of_one_id(xsum: ModuleType, corpus: Path) -> None:
    path = corpus / "bbc-summary-data" / "10000003.summary"
    (corpus / "more").mkdir()
    (corpus / "more" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"more/10000003\.summary: occurs twice, in .*"):
        xsum.prepare(corpus, corpus.parent / "data")

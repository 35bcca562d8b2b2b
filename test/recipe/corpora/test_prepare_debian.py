"""Package descriptions: a made-up index, families, what is left out, what is broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError

SIZES = {"test": 5, "valid": 3, "train": 0}
LONG = "A paragraph that many words make longer than sixty letters, number {}."


def stanza(name: str, synopsis: str, *paragraphs: str) -> str:
    body = "\n .\n".join(f" {text}" for text in paragraphs)
    head = f"Package: {name}\nDescription-md5: 0\nDescription-en: {synopsis}\n"
    return head + (f"{body}\n" if body else "") + "\n"


@pytest.fixture
def prepare(load_local):
    return load_local("debian/sum1")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "Translation-en.gz"
    stanzas = [stanza(f"p{n}", f"Tool {n}", LONG.format(n)) for n in range(20)]
    stanzas += [stanza(f"p{n}-doc", f"Tool {n} - manual", LONG.format(n), "Its manual.")
                for n in range(20)]  # fmt: skip
    stanzas.append(stanza("p1", "Tool 1, newer", "Newer."))
    stanzas.append(stanza("twin", "Tool 2", LONG.format(2)))
    stanzas.append(stanza("empty", "Nothing below"))
    stanzas.append(stanza("mute", "", "Nothing above."))
    path.write_bytes(gzip.compress("".join(stanzas).encode()))
    return path


def test_families_stay_together_and_nothing_is_lost(prepare, index, tmp_path, capsys):
    prepare.prepare([index], tmp_path / "data", SIZES, 1, 0)
    out = capsys.readouterr().out
    assert "44 packages listed, 40 used" in out
    for reason in (
        "1 dropped: a second version of a package",
        "1 dropped: empty description",
        "1 dropped: empty synopsis",
        "1 dropped: the same two texts as another",
    ):
        assert reason in out
    texts = {n: read_table(tmp_path / "data" / n / "text") for n in SIZES}
    assert [len(texts[n]) for n in ("test", "valid", "train")] == [5, 3, 24]
    family = {n: {k.removesuffix("-doc") for k in t} for n, t in texts.items()}
    assert not family["train"] & (family["test"] | family["valid"])
    sources = read_table(tmp_path / "data/train/text.source")
    key = next(key for key in sources if key.endswith("-doc"))
    number = key.removeprefix("p").removesuffix("-doc")
    assert sources[key] == f"{LONG.format(number)} Its manual."
    assert texts["train"][key] == f"Tool {number} - manual"


def test_pairs_that_train_copying_are_of_training_alone(prepare, index, tmp_path):
    prepare.prepare([index], tmp_path / "data", SIZES, 1, 4)
    texts = {n: read_table(tmp_path / "data" / n / "text") for n in SIZES}
    sources = read_table(tmp_path / "data/train/text.source")
    assert [len(texts[n]) for n in ("test", "valid", "train")] == [5, 3, 48]
    key = next(key for key in sources if key.endswith("-doc"))
    assert sources[f"{key}~lead"] == f"lead: {sources[key]}"
    assert texts["train"][f"{key}~lead"] == "A paragraph that many"
    prepare.prepare([index], tmp_path / "third", SIZES, 1, 4, lead_every=3)
    third = read_table(tmp_path / "third/train/text")
    assert len(third) == 24 + 8
    assert third.items() <= texts["train"].items()


def test_a_paragraph_that_all_share_makes_no_family(prepare):
    packages = [
        prepare.Package(f"p{n}", f"Tool {n}", (LONG.format("all"), LONG.format(n)))
        for n in range(prepare.MAX_SHARED + 1)
    ]
    assert len(prepare.families(packages)) == len(packages)
    assert len(prepare.families(packages[1:])) == 1


def test_bad_indexes_are_one_clear_line(prepare, index, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        prepare.prepare([tmp_path / "nowhere"], tmp_path / "data", SIZES, 1, 0)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(index.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cut\.gz: broken"):
        prepare.prepare([cut], tmp_path / "data", SIZES, 1, 0)
    other = tmp_path / "other"
    other.write_text("Some: thing\n\nelse\n")
    with pytest.raises(UserError, match="other, line 1: no Package and Description-en"):
        prepare.prepare([other], tmp_path / "data", SIZES, 1, 0)
    with pytest.raises(UserError, match="--num_train 99: only 24 packages are left"):
        prepare.prepare([index], tmp_path / "data", {**SIZES, "train": 99}, 1, 0)
    assert not (tmp_path / "data").exists()

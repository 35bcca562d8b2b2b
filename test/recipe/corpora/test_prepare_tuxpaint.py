"""Spoken captions: made-up ones in the package's layout; what is kept, and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError

SETS = ("train", "valid", "test_pictures", "test_recordings")


def write_picture(stamps: Path, name: str, texts: dict[str, str], seed: int) -> None:
    """A caption file, and a recording in each language but English."""
    path = stamps / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [texts["en"], *(f"{k}.utf8={v}" for k, v in texts.items() if k != "en")]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for number, language in enumerate(key for key in texts if key != "en"):
        noise = np.random.default_rng([seed, number]).normal(0, 0.1, 800)
        file = path.with_name(f"{path.stem}_desc_{language}.ogg")
        soundfile.write(file, noise, 16000, format="OGG", subtype="VORBIS")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    stamps = tmp_path / "corpus" / "usr/share/tuxpaint/stamps"
    for number in range(30):
        name = f"{('animals', 'food')[number % 2]}/some/thing_{number}"
        texts = {"en": f"A thing, {number}.", "es": f"¡Cosa {number}!"}
        write_picture(stamps, name, texts | {"ru": f"Вещь {number}"}, number)
    return tmp_path / "corpus"


@pytest.fixture
def prepare(load_local):
    return load_local("tuxpaint/slu1")


def test_sets_are_apart_and_have_three_texts(prepare, corpus, tmp_path, capsys):
    prepare.prepare(corpus, tmp_path / "data", ["es", "ru"], 1.0, 1)
    tables = {
        name: {t: read_table(tmp_path / "data" / name / t) for t in
               ("text.spoken", "text.intent", "text.en", "wav.scp", "utt2spk")}
        for name in SETS
    }  # fmt: skip
    keys = [key for name in SETS for key in tables[name]["wav.scp"]]
    assert len(keys) == len(set(keys)) == 60
    assert "60 recordings read, 60 used" in capsys.readouterr().out
    spoken = tables["train"]["text.spoken"]
    key = next(key for key in spoken if key.startswith("es-animals"))
    number = key.rpartition("_")[2]
    assert spoken[key] == f"cosa {number}"
    assert tables["train"]["text.intent"][key] == f"animals cosa {number}"
    assert tables["train"]["text.en"][key] == f"A thing, {number}."
    assert tables["train"]["utt2spk"][key] == "es"
    english = {n: set(t["text.en"].values()) for n, t in tables.items()}
    assert not english["test_pictures"] & english["train"]
    assert english["test_recordings"] <= english["train"]
    held_out = set(tables["test_recordings"]["text.spoken"].values())
    assert held_out and not held_out & set(spoken.values())


def test_the_same_input_gives_the_same_sets(prepare, corpus, tmp_path):
    for name in ("one", "two"):
        prepare.prepare(corpus, tmp_path / name, ["es", "ru"], 0.5, 3)
    for name in SETS:
        texts = [read_table(tmp_path / d / name / "text.en") for d in ("one", "two")]
        assert texts[0] == texts[1]


def test_what_cannot_be_used_is_counted(prepare, corpus, tmp_path, capsys):
    stamps = corpus / "usr/share/tuxpaint/stamps"
    copy = stamps / "food/some/thing_1_desc_es.ogg"
    write_picture(stamps, "food/twin", {"en": "Twin.", "es": "Gemelo"}, 99)
    (stamps / "food/twin_desc_es.ogg").write_bytes(copy.read_bytes())
    write_picture(stamps, "food/silent", {"en": "No.", "es": "...", "ru": ""}, 98)
    (stamps / "food/silent.txt").write_text("No.\nes.utf8=...\n")
    prepare.prepare(corpus, tmp_path / "data", ["es", "ru"], 1.0, 1)
    out = capsys.readouterr().out
    assert "63 recordings read, 60 used" in out
    for reason in (
        "1 dropped: the same sound as another",
        "1 dropped: no caption in its language",
        "1 dropped: a caption without words",
    ):
        assert reason in out


@pytest.mark.usefixtures("prepare")
def test_pictures_that_say_the_same_stay_together(corpus):
    """The same words in one language bind two pictures whose English differs."""
    from captions import group, read_captions

    stamps = corpus / "usr/share/tuxpaint/stamps"
    write_picture(stamps, "food/b", {"en": "Cosa eleven.", "es": "Cosa 11."}, 97)
    write_picture(stamps, "food/c", {"en": "cosa ELEVEN", "ru": "Одиннадцать"}, 96)
    captions, _, _ = read_captions(corpus, ["es", "ru"])
    (family,) = [g for g in group(captions) if any("food_b" in c.key for c in g)]
    assert {c.key.rpartition("_")[2] for c in family} == {"b", "c", "11"}


def test_bad_corpora_are_one_clear_line(prepare, corpus, tmp_path):
    with pytest.raises(UserError, match="no tuxpaint/stamps below it; unpack tuxpaint"):
        prepare.prepare(tmp_path / "data", tmp_path / "data", ["es"], 1.0, 1)
    with pytest.raises(UserError, match=r"no NAME_desc_LANG\.ogg of fr"):
        prepare.prepare(corpus, tmp_path / "data", ["fr"], 1.0, 1)
    bad = corpus / "usr/share/tuxpaint/stamps/food/some/thing_1.txt"
    bad.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"thing_1\.txt: not UTF-8"):
        prepare.prepare(corpus, tmp_path / "data", ["es"], 1.0, 1)
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("prepare")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("L\u2019œuf d'un  dindon — bio.", "l'œuf d'un dindon bio"),
        ("¿Qué? (Don Quijote-Sancho) 'sí'", "qué don quijote-sancho sí"),
        ("... !", ""),
    ],
)
def test_spoken_words(text, words):
    from captions import spoken_words

    assert spoken_words(text) == words

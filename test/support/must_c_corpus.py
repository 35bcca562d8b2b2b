"""A made-up MuST-C in the layout of v1.0: talks as a whole, lists, two texts."""

from __future__ import annotations

from pathlib import Path

import yaml

from test.support.corpus_sound import write_sound

TALKS = {"train": (1922, 767), "dev": (13,), "tst-COMMON": (1096,), "tst-HE": (1112,)}
ENGLISH = (
    "And it's truly a great honor to be here.",
    "(Laughter)",
    "Thank you — so much, Chris!",
    "\u266b \u266b",
    "I have been blown away by this well-known conference.",
)
TARGET = {
    "de": (
        "Es ist mir wirklich eine Ehre, hier zu sein.",
        "(Lachen)",
        "Vielen Dank, Chris!",
        "\u266b \u266b",
        "Ich bin überwältigt von dieser Konferenz.",
    ),
    "fr": (
        "C'est vraiment un honneur d'être ici.",
        "(Rires)",
        "Merci beaucoup, Chris !",
        "\u266b \u266b",
        "J'ai été très impressionné par cette conférence.",
    ),
}


def write_must_c(
    corpus: Path, language: str = "de", talks: int = 2, entries: int = 5
) -> Path:
    """``en-LANG`` below ``corpus``: ``talks`` talks at most a split, each of them with
    ``entries`` entries of 1.5 s, one every 2 s from 0.5 s on; returns ``data``."""
    data = corpus / f"en-{language}" / "data"
    for split, numbers in TALKS.items():
        rows, english, target = [], [], []
        for number in numbers[:talks]:
            seconds = 2.0 * entries + 1
            write_sound(data / split / "wav" / f"ted_{number}.wav", seconds, number)
            for place in range(entries):
                rows.append(entry(number, 0.5 + 2.0 * place, 1.5))
                english.append(ENGLISH[place % len(ENGLISH)])
                target.append(TARGET[language][place % len(ENGLISH)])
        write_texts(data / split, split, language, rows, english, target)
    return data


def entry(talk: int, offset: float, duration: float, **more: object) -> dict:
    """A line of the list, with the fields in the order of v1.0."""
    fields = {"duration": duration, "offset": offset}
    return {**fields, **more, "speaker_id": f"spk.{talk}", "wav": f"ted_{talk}.wav"}


def write_texts(
    folder: Path,
    split: str,
    language: str,
    rows: list[dict],
    english: list[str],
    target: list[str],
) -> None:
    """The three files of a split, the list in the one-line style of the corpus."""
    stem = folder / "txt" / split
    stem.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        yaml.safe_dump([row], default_flow_style=None, sort_keys=False, width=999)
        for row in rows
    ]
    for ending, text in (
        ("yaml", "".join(lines)),
        ("en", "".join(f"{line}\n" for line in english)),
        (language, "".join(f"{line}\n" for line in target)),
    ):
        Path(f"{stem}.{ending}").write_text(text, encoding="utf-8")

"""Reader of the Tux Paint stamps: captions of pictures and their recordings.

``CLASS/.../NAME.txt`` has the English caption in its first line, then
``LANG.utf8=...`` in some 80 languages; ``NAME_desc_LANG.ogg`` is the spoken caption.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.errors import UserError

PACKAGE = "tuxpaint-stamps-default"
LANGUAGES = ["be", "bg", "ca", "el", "es", "fr", "ro", "ru"]
NO_TEXT, NO_WORDS = "no caption in its language", "a caption without words"


@dataclass(frozen=True)
class Caption:
    """One recording: its words, the English caption, and the class of the picture."""

    key: str
    language: str
    words: str
    english: str
    intent: str
    path: Path
    digest: str


def read_captions(
    folder: Path, languages: list[str]
) -> tuple[list[Caption], Counter[str], int]:
    """Read the captions below ``folder`` that are spoken in one of ``languages``.

    Returns:
        captions, number of dropped recordings by reason, and number of recordings.
    Raises:
        UserError: there is no recording, or a caption file is not UTF-8.
    """
    stamps = find_stamps(folder)
    captions: list[Caption] = []
    dropped: Counter[str] = Counter()
    total = 0
    for path in sorted(stamps.rglob("*_desc_*.ogg")):
        stem, _, rest = path.name.partition("_desc_")
        language = rest.removesuffix(".ogg")
        if language not in languages:
            continue
        total += 1
        texts = read_texts(path.with_name(f"{stem}.txt"))
        if not texts.get(language) or not texts.get("en"):
            dropped[NO_TEXT] += 1
            continue
        words = spoken_words(texts[language])
        if not words:
            dropped[NO_WORDS] += 1
            continue
        place = path.relative_to(stamps)
        name = "_".join((*place.parts[:-1], stem)).replace(" ", "_")
        captions.append(
            Caption(
                key=f"{language}-{name}",
                language=language,
                words=words,
                english=one_spaced(texts["en"]),
                intent=place.parts[0],
                path=path,
                digest=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    if not total:
        raise UserError(
            f"{stamps}: no NAME_desc_LANG.ogg of {' '.join(languages)}; unpack "
            f"{PACKAGE} again, or name another --corpus"
        )
    return captions, dropped, total


def find_stamps(folder: Path) -> Path:
    """Find the folder of the classes below ``folder``."""
    folders = sorted(folder.rglob("tuxpaint/stamps"))
    if not folders:
        raise UserError(
            f"{folder}: no tuxpaint/stamps below it; unpack {PACKAGE} there, or name "
            "another --corpus"
        )
    return folders[0]


def read_texts(path: Path) -> dict[str, str]:
    """Read the captions of a picture by language; the first line is ``en``."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; get the file again") from None
    texts = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        name, equals, text = line.partition(".utf8=")
        if equals:
            texts[name.strip()] = text.strip()
    return texts


def one_spaced(text: str) -> str:
    """Normalise Unicode (NFC) and white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def spoken_words(text: str) -> str:
    """Lower the case; remove punctuation, except ``'`` and ``-`` inside words.

    >>> spoken_words("A well-known dog's tail!")
    "a well-known dog's tail"
    """
    text = one_spaced(text).lower().replace("\u2019", "'")
    return " ".join(re.sub(r"[^\w'-]|(?<!\w)['-]|['-](?!\w)|_", " ", text).split())


def drop_duplicates(captions: list[Caption]) -> tuple[list[Caption], int]:
    """Keep the first of identical recordings; return the rest's number, too."""
    first = {caption.digest: caption for caption in reversed(captions)}
    kept = [caption for caption in captions if first[caption.digest] is caption]
    return kept, len(captions) - len(kept)


def group(captions: list[Caption]) -> list[list[Caption]]:
    """Group captions with equal words in English or in their language.

    Groups are connected components: union-find over the words.
    """
    parent = list(range(len(captions)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, caption in enumerate(captions):
        english = spoken_words(caption.english)
        for mark in (("en", english), (caption.language, caption.words)):
            parent[root(index)] = root(first.setdefault(mark, index))
    groups: dict[int, list[Caption]] = {}
    for index, caption in enumerate(captions):
        groups.setdefault(root(index), []).append(caption)
    return list(groups.values())

"""Reader of XSum's original files: one file per article, and one with the split.

``bbc-summary-data/ID.summary`` has parts, each after a line ``[SN]NAME[SN]``: URL,
TITLE, FIRST-SENTENCE (the summary) and RESTBODY (the article). ``ID.data``, written by
the authors' scripts from downloaded pages, has ``[XSUM]`` marks, and the summary is
INTRODUCTION. The split file maps names of sets to ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError
from espnet_mtla.text_files import read_json

ENDINGS = (".summary", ".data")
SPLIT = "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
_MARK = re.compile(r"^\[(SN|XSUM)\]([A-Z-]+)\[\1\]\s*$", re.MULTILINE)
_SUMMARY, _DOCUMENT = ("FIRST-SENTENCE", "INTRODUCTION"), ("RESTBODY",)
# Labels of buttons of the web page; the hub's rows do not have them either.
_BUTTONS = frozenset(
    (
        "Share this with",
        "Email",
        "Facebook",
        "Messenger",
        "Twitter",
        "Pinterest",
        "WhatsApp",
        "Linkedin",
        "LinkedIn",
        "Copy this link",
        "These are external links and will open in a new window",
    )
)


def find_articles(corpus: Path) -> dict[str, Path]:
    """Return {id: file}, all with one ending; raise UserError for a second file."""
    files: dict[str, Path] = {}
    for ending in ENDINGS:
        for path in sorted(corpus.rglob(f"*{ending}")):
            if path.name.startswith("."):
                continue  # metadata of an archiver
            first = files.setdefault(path.stem, path)
            if first != path:
                raise UserError(f"{path}: occurs twice, in {first.parent} too")
        if files:
            break
    return files


def read_split(corpus: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return {set: ids} for ``names``; raise UserError for a missing or broken file."""
    files = sorted(corpus.rglob("*SPLIT*.json"))
    if len(files) != 1:
        raise UserError(
            f"{corpus}: {len(files)} files named *SPLIT*.json; one is needed, {SPLIT}, "
            "the list of the articles of each set"
        )
    sets = read_json(files[0], "get the file again")
    for name in names:
        ids = sets.get(name)
        if not isinstance(ids, list) or not all(isinstance(key, str) for key in ids):
            raise UserError(f"{files[0]}: no list of ids named {name!r}")
    return {name: sets[name] for name in names}


def read_articles(
    ids: Sequence[str], files: dict[str, Path], counter: DropCounter
) -> Iterator[tuple[str, str, str]]:
    """Yield id, document and summary; refuse ids without a file or its parts."""
    for key in ids:
        if key not in files:
            counter.refuse("without a file of their own", key)
            continue
        try:
            texts = _parts(files[key].read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            counter.refuse("that are not UTF-8", files[key])
            continue
        parts = [
            next((texts[name] for name in names if name in texts), None)
            for names in (_DOCUMENT, _SUMMARY)
        ]
        if None in parts:
            counter.refuse("without a part FIRST-SENTENCE or RESTBODY", files[key])
        else:
            yield key, *parts


def _parts(text: str) -> dict[str, str]:
    """Split a file into {name: part}, without the labels of buttons."""
    _, *pieces = _MARK.split(text)
    return {
        name: "\n".join(
            line for line in body.splitlines() if line.strip() not in _BUTTONS
        )
        for name, body in zip(pieces[1::3], pieces[2::3], strict=True)
    }

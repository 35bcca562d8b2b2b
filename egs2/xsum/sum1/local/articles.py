"""XSum as its authors give it away: a file an article, and one file of the three sets.

``bbc-summary-data/ID.summary`` has parts, each behind a line ``[SN]NAME[SN]``: URL,
TITLE, FIRST-SENTENCE (the summary) and RESTBODY (the article). ``ID.data``, which the
authors' scripts make of downloaded pages, marks them by ``[XSUM]`` and calls the
summary INTRODUCTION. The split file maps a set's name to ids.
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
# Buttons of the web page that were taken for text; the hub's rows are without them too.
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
    """The file of each id; all end alike. UserError if an id has two files."""
    found: dict[str, Path] = {}
    for ending in ENDINGS:
        for path in sorted(corpus.rglob(f"*{ending}")):
            if path.name.startswith("."):
                continue  # what an archiver notes beside a file
            first = found.setdefault(path.stem, path)
            if first != path:
                raise UserError(f"{path}: occurs twice, in {first.parent} too")
        if found:
            break
    return found


def read_split(corpus: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The ids of the sets ``names``; UserError if the file is not there, or broken."""
    files = sorted(corpus.rglob("*SPLIT*.json"))
    if len(files) != 1:
        raise UserError(
            f"{corpus}: {len(files)} files named *SPLIT*.json; one is needed, {SPLIT}, "
            "which says of which set an article is"
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
    """Id, document and summary; what has no file, or no such parts, is refused."""
    for key in ids:
        if key not in files:
            counter.refuse("without a file of their own", key)
            continue
        try:
            texts = _parts(files[key].read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError:
            counter.refuse("that are not UTF-8", files[key])
            continue
        found = [
            next((texts[name] for name in names if name in texts), None)
            for names in (_DOCUMENT, _SUMMARY)
        ]
        if None in found:
            counter.refuse("without a part FIRST-SENTENCE or RESTBODY", files[key])
        else:
            yield key, *found


def _parts(text: str) -> dict[str, str]:
    """The parts of a file by their names, without the page's buttons."""
    _, *pieces = _MARK.split(text)
    return {
        name: "\n".join(
            line for line in body.splitlines() if line.strip() not in _BUTTONS
        )
        for name, body in zip(pieces[1::3], pieces[2::3], strict=True)
    }

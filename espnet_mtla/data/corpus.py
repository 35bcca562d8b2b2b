"""Common parts of ``local/prepare.py``: options, input files and output sets."""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from espnet_mtla.data.atomic import atomic_folders
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.table import write_table
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.text_files import parse_json

Tables = Mapping[str, Mapping[str, str]]
"""Rows of each table by table name: a set without audio."""


class _Parser(argparse.ArgumentParser):
    """Report a wrong option in one line, with ``run.sh``'s option for ``--corpus``."""

    def error(self, message: str) -> NoReturn:
        hint = '; run.sh takes it as --local_data_opts "--corpus DIR"'
        raise UserError(message + (hint if "--corpus" in message else ""))


def corpus_parser(
    description: str | None, corpus: str, drop_bad: str, required: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with ``--corpus``, ``--data`` and ``--drop_bad``.

    Args:
        description: text at the top of ``--help``.
        corpus, drop_bad: help texts of these options.
        required: whether ``--corpus`` is.
    """
    parser = _Parser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", type=Path, required=required, help=corpus)
    add("--data", type=Path, default=Path("data"), help="output folder")
    add("--drop_bad", action="store_true", help=drop_bad)
    return parser


def find_folder(places: Iterable[Path], file: str, way_out: str) -> Path:
    """Return the first of ``places`` that contains ``file``.

    Args:
        places: folders, in order of preference.
        file: name of a file in one of them.
        way_out: what the user can do if there is none.
    Raises:
        UserError: no folder contains it; names it in the first.
    """
    places = list(places)
    for place in places:
        if (place / file).is_file():
            return place
    raise UserError(f"{places[0] / file}: {no_file(places[0] / file)}; {way_out}")


def require_file(path: Path, way_out: str = "get the corpus again") -> Path:
    """Return ``path``; raise UserError with ``way_out`` if it is no file."""
    return find_folder([path.parent], path.name, way_out) / path.name


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the JSON object of each non-empty line.

    Raises:
        UserError: a line is not a JSON object; names it.
    """
    with open(require_file(path), "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            item = parse_json(line, f"{path}:{number}")
            if not isinstance(item, dict):
                raise UserError(f"{path}:{number}: not a JSON object")
            yield number, item


def plain_words(text: str) -> str:
    """Return lower-case words; of the punctuation only marks inside a word remain.

    An apostrophe before one letter is part of it, before a word it is a quotation mark.

    >>> plain_words("'t Is \u201eLemura\u201c -- 'auto-rijden', zo'n wrak\u2026")
    "'t is lemura auto-rijden zo'n wrak"
    """
    text = unicodedata.normalize("NFC", text).lower().replace("\u2019", "'")
    text = re.sub(r"[^\w'-]|_|(?<!\w)-|-(?!\w)|'(?!\w)|(?<!\w)'(?=\w\w)", " ", text)
    return " ".join(text.split())


def write_sets(data: Path, sets: Mapping[str, DataFolder | Tables]) -> None:
    """Write the folder ``data/NAME`` of each set, all or none.

    Call it after all sets are read and counted. Raises UserError for a set without
    utterances, and for a key or text that a table cannot hold, such as one with a line
    break.
    """
    for name, content in sets.items():
        sound = content.wav if isinstance(content, DataFolder) else {}
        tables = content.tables if isinstance(content, DataFolder) else content
        if not any((sound, *tables.values())):
            raise UserError(f"{name}: no utterances; nothing is written to {data}")
    with atomic_folders(data / name for name in sets) as asides:
        for aside, (name, content) in zip(asides, sets.items(), strict=True):
            try:
                if isinstance(content, DataFolder):
                    content.write(aside)
                    continue
                for table, rows in content.items():
                    write_table(aside / table, rows)
            except UserError as error:
                # Name the set: the temporary folder is unknown to the user.
                raise UserError(str(error).replace(str(aside), name)) from None

"""What every ``local/prepare.py`` does alike: options, files to find, sets to write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from espnet_mtla.data.atomic import atomic_folders
from espnet_mtla.data.folder import DataFolder, write_table
from espnet_mtla.errors import UserError

Tables = Mapping[str, Mapping[str, str]]
"""Name of each table to its rows: a set that has no sound."""


class _Parser(argparse.ArgumentParser):
    """A wrong option is one line; where no corpus is named, it says where to."""

    def error(self, message: str) -> NoReturn:
        given = '; run.sh takes it as --local_data_opts "--corpus DIR"'
        raise UserError(message + (given if "--corpus" in message else ""))


def corpus_parser(
    description: str | None, corpus: str, drop_bad: str, required: bool = True
) -> argparse.ArgumentParser:
    """``--corpus``, ``--data`` and ``--drop_bad``; a recipe adds options of its own.

    ``corpus`` and ``drop_bad`` are help texts; ``required`` is about ``--corpus``.
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
    """The first of ``places`` in which ``file`` is; UserError names that of the first.

    ``way_out`` says what the user can do.
    """
    places = list(places)
    for place in places:
        if (place / file).is_file():
            return place
    raise UserError(f"{places[0] / file}: no such file; {way_out}")


def require_file(path: Path, way_out: str = "get the corpus again") -> Path:
    """``path``; UserError with ``way_out`` if it is no file."""
    return find_folder([path.parent], path.name, way_out) / path.name


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and JSON object of each line; UserError names a line that is none.

    Empty lines are no items, and read past.
    """
    with open(require_file(path), "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise UserError(f"{path}:{number}: no JSON ({error})") from None
            if not isinstance(item, dict):
                raise UserError(f"{path}:{number}: no JSON object")
            yield number, item


def write_sets(data: Path, sets: Mapping[str, DataFolder | Tables]) -> None:
    """Write ``data/NAME`` for each set, all or none.

    Call it once all are read and counted. UserError for a text no table can hold.
    """
    with atomic_folders(data / name for name in sets) as asides:
        for aside, (name, found) in zip(asides, sets.items(), strict=True):
            try:
                if isinstance(found, DataFolder):
                    found.write(aside)
                    continue
                for table, rows in found.items():
                    write_table(aside / table, rows)
            except UserError as error:
                # Of the folder aside nobody knows, and nothing is left.
                raise UserError(str(error).replace(str(aside), name)) from None

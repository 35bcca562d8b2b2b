"""Tables of lines ``key value``, as Kaldi's data folders hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError, no_file

_UNFIT = re.compile("[\n\r\0\ud800-\udfff]")  # JSON can hold lone surrogates
_BYTE_ORDER_MARK, _CRLF = "byte-order mark", "line ends are CRLF"
_NOT_UTF8, _CONTROL = "not UTF-8", "control character inside the line"
_OTHER_SPACE = "white space of another kind in the key"
LOST_LINES = (_NOT_UTF8, _CONTROL, _OTHER_SPACE)
"""Defects of a line (:attr:`Problem.what`) of which no :class:`TableLine` is made."""


@dataclass(frozen=True)
class TableLine:
    """One line of a table; ``line`` counts from 1."""

    line: int
    key: str
    value: str


@dataclass(frozen=True)
class Problem:
    """A defect of a data folder; ``line`` is 0 if it concerns the whole file.

    ``what`` is the category, a fixed text; ``detail`` describes the individual case.
    """

    file: str
    line: int
    key: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, self.key, self.what, self.detail)))


def scan_table(path: str | Path) -> tuple[list[TableLine], list[Problem]]:
    """Read a table; return its valid lines in file order, and the defects.

    A byte-order mark and CRLF line ends are removed and reported. Only a missing file
    raises :class:`UserError`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {no_file(path)}")
    data = path.read_bytes()
    rows: list[TableLine] = []
    problems: list[Problem] = []
    if data.startswith(b"\xef\xbb\xbf"):
        problems.append(Problem(path.name, 1, "", _BYTE_ORDER_MARK))
        data = data[3:]
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    crlf = sum(line.endswith(b"\r") for line in lines)
    if crlf:
        problems.append(Problem(path.name, 0, "", _CRLF, f"{crlf} lines"))
    for number, line in enumerate(lines, 1):
        row = _parse_line(path.name, number, line.removesuffix(b"\r"))
        if isinstance(row, TableLine):
            rows.append(row)
        else:
            problems.append(row)
    return rows, problems


def _parse_line(name: str, number: int, line: bytes) -> TableLine | Problem:
    try:
        text = line.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        return Problem(name, number, "", _NOT_UTF8)
    if not text:
        return Problem(name, number, "", "empty line")
    if "\r" in text or "\0" in text:
        return Problem(name, number, "", _CONTROL)
    key, *rest = text.replace("\t", " ", 1).split(" ", 1)
    if key != "".join(key.split()):
        # Programs that split at any white space would read another key.
        return Problem(name, number, key, _OTHER_SPACE)
    return TableLine(number, key, rest[0].strip() if rest else "")


def read_table(path: str | Path) -> dict[str, str]:
    """Read ``key value`` lines; the value is the text after the first white space.

    A byte-order mark and CRLF line ends are accepted. Raises :class:`UserError` for a
    missing file, bytes that are not UTF-8, an empty line or a duplicate key.
    """
    path = Path(path)
    rows, problems = scan_table(path)
    for problem in problems:
        if problem.what not in (_BYTE_ORDER_MARK, _CRLF):
            raise UserError(f"{path}:{problem.line}: {problem.what}")
    table: dict[str, str] = {}
    for row in rows:
        if row.key in table:
            raise UserError(f"{path}:{row.line}: key {row.key!r} occurs twice")
        table[row.key] = row.value
    return table


def write_table(path: str | Path, table: Mapping[str, str]) -> None:
    """Write ``key value`` lines atomically, sorted by the UTF-8 bytes of the keys.

    Python sorts strings by code point, which is the order of their UTF-8 bytes.
    """
    for key, value in table.items():
        if key.split() != [key] or "\0" in key:
            raise UserError(f"{path}: key {key!r} is empty or has white space")
        if _UNFIT.search(key + value):
            raise UserError(f"{path}: {key!r}: line break, NUL or surrogate: {value!r}")
    with atomic_file(path) as stream:
        for key in sorted(table):
            stream.write(f"{key} {table[key].strip()}".rstrip() + "\n")

"""Tables of text: aligned for the terminal, or Markdown. Widths are those on screen."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: wide letters two, combining none."""
    return sum(
        0 if unicodedata.combining(letter) else _columns(letter) for letter in text
    )


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def pad(text: str, columns: int, right: bool = False) -> str:
    """Fill ``text`` with spaces up to ``columns``; ``right`` moves it to the right."""
    space = " " * (columns - width(text))
    return space + text if right else text + space


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, gap: int = 2
) -> str:
    """Lines for the terminal; the first ``left`` columns are flush left."""
    columns = _column_widths(header, rows)
    lines = [header, ["-" * column for column in columns], *rows]
    return "\n".join(
        (" " * gap)
        .join(pad(cell, columns[i], right=i >= left) for i, cell in enumerate(line))
        .rstrip()
        for line in lines
    )


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1
) -> str:
    """A Markdown table whose source is aligned too."""
    columns = [max(3, column) for column in _column_widths(header, rows)]
    rule = ["-" * c if i < left else "-" * (c - 1) + ":" for i, c in enumerate(columns)]
    return "\n".join(
        "| "
        + " | ".join(
            pad(cell, columns[i], right=i >= left) for i, cell in enumerate(line)
        )
        + " |"
        for line in [header, rule, *rows]
    )


def _column_widths(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(width(cell) for cell in column)
        for column in zip(header, *rows, strict=True)
    ]

"""Format text tables for the terminal or as Markdown; widths in terminal columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Return the terminal columns of ``text``: wide characters 2, combining ones 0.

    >>> width("日本"), width("e\u0301")
    (4, 1)
    """
    return sum(
        0 if unicodedata.combining(letter) else _columns(letter) for letter in text
    )


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def pad(text: str, columns: int, right: bool = False) -> str:
    """Pad ``text`` with spaces to ``columns``; right-aligned if ``right``.

    >>> pad("ab", 4), pad("ab", 4, right=True)
    ('ab  ', '  ab')
    """
    space = " " * (columns - width(text))
    return space + text if right else text + space


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, gap: int = 2
) -> str:
    """Format a table for the terminal.

    Args:
        header: column headings.
        rows: cells of each row.
        left: number of left-aligned columns; the others are right-aligned.
        gap: spaces between columns.
    """
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
    """Format a Markdown table with aligned source.

    Args:
        header: column headings.
        rows: cells of each row.
        left: number of left-aligned columns; the others are right-aligned.
    """
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

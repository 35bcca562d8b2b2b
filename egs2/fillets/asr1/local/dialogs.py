"""Read the texts of the game: lists of dialogs in Lua, one file per level and language.

A list has pairs of calls, ``dialogId("KEY", "FONT", "English text")`` and then
``dialogStr("text")``. ``KEY`` is the name of the recording, ``FONT`` the speaker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.errors import UserError

_STRING = r'"(?P<%s>(?:[^"\\]|\\.)*)"'
_STRING_OR_COMMENT = re.compile(rf"{_STRING % 'any'}|--[^\n]*", re.DOTALL)
# A comment, a call with fixed strings, or the start of a call with other arguments.
_CALL = re.compile(
    r"(?P<comment>--[^\n]*)"
    rf"|dialogId\s*\(\s*{_STRING % 'key'}\s*,\s*{_STRING % 'font'}"
    rf"\s*,\s*{_STRING % 'english'}\s*\)"
    rf"|dialogStr\s*\(\s*{_STRING % 'text'}\s*\)"
    r"|(?:dialogId|dialogStr)\s*\(",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(\d{1,3}|.)", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "a": "", "b": "", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Line:
    """One line of dialog: key, speaker, English original, text of the file."""

    key: str
    speaker: str
    english: str
    text: str


def unescape(text: str) -> str:
    r"""Return the value of a Lua string, from the characters between its quotes.

    >>> unescape(r"say \"hi\", \/etc")
    'say "hi", /etc'
    """

    def value(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code)) if code.isdigit() else _CONTROL.get(code, code)

    return _ESCAPE.sub(value, text)


def parse_dialogs(source: str, name: str) -> tuple[list[Line], list[str]]:
    """Return the lines of a dialog list, and the calls that are none.

    The packages have a few calls with other arguments than fixed strings, such as
    ``dialogId("key"..i, "", "")`` in a loop: they have no recording.

    Args:
        source: contents of the file.
        name: the file, for errors.
    Raises:
        UserError: a string has no end: the file is truncated.
    """
    if '"' in _STRING_OR_COMMENT.sub("", source):
        raise UserError(f"{name}: a string without end; unpack the package again")
    lines: list[Line] = []
    unread: list[str] = []
    head: tuple[str, str, str] | None = None
    for match in _CALL.finditer(source):
        if match["comment"]:
            continue
        key, font, english, text = match.group("key", "font", "english", "text")
        if key is not None:
            head = (unescape(key), unescape(font), unescape(english))
        elif text is not None and head is not None:
            lines.append(Line(*head, unescape(text)))
            head = None
        else:
            number = source.count("\n", 0, match.start()) + 1
            unread.append(f"{name}:{number}: {match[0].split('(')[0]}")
            head = None
    return lines, unread


def read_dialogs(path: Path) -> tuple[list[Line], list[str]]:
    """Call :func:`parse_dialogs` on a file; raise UserError if it is not UTF-8."""
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; unpack the package again") from None
    return parse_dialogs(source, str(path))

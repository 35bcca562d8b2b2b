"""Detect the format of text files: Kaldi tables (``KEY text``) or plain lines.

A file can be a table if the first words of its lines are unique. Plain lines may
satisfy that too, so the decision is made over all files together: either all are
tables, or none is. A wrong decision would score keys as words, or drop words as keys.
Ambiguous files are therefore refused, or read as tables with a message in the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError, no_file

FORMATS = ("auto", "kaldi", "lines", "jsonl")
HINT = "are these plain lines? --format lines"

_TRN = re.compile(r"\([^()\s]+\)\s*$")
_KEY = re.compile(r"\d|_|\w-\w|/")  # in keys of corpora; seldom in words


@dataclass(frozen=True)
class Candidate:
    """A file of undetermined format.

    ``obstacle`` is the error of reading it as a table; empty if it is a valid table.
    """

    path: str
    lines: list[str]
    obstacle: str

    @property
    def first_words(self) -> list[str]:
        """The first word of each line that is not blank."""
        return [line.split(maxsplit=1)[0] for line in self.lines if line.strip()]

    @property
    def has_keys(self) -> bool:
        """Whether most lines begin with a word that looks like an utterance key."""
        words = self.first_words
        return 2 * sum(bool(_KEY.search(word)) for word in words) > len(words)


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a UTF-8 file, without line ends and byte-order mark.

    Raises:
        UserError: the file is not UTF-8, or a line contains a control character.
    """
    try:
        # Read bytes: text mode would also split at a carriage return inside a line.
        content = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    # Not splitlines(): it also splits at separators such as U+2028 inside a text.
    lines = content.removesuffix("\n").split("\n") if content else []
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, 1):
        if "\r" in line or "\0" in line:
            raise UserError(f"{path}:{number}: control character inside the line")
    return lines


def forms(paths: Sequence[str | Path], form: str) -> list[str]:
    """Return the format of each file: ``kaldi``, ``lines`` or ``jsonl``.

    Args:
        paths: all files that are paired with each other.
        form: one of :data:`FORMATS`; ``auto`` decides by file name and content.
    Returns:
        One format per file.
    Raises:
        UserError: ``form`` is ``auto`` and the format is ambiguous or unknown.
    """
    if form != "auto":
        return [form] * len(paths)
    named = ["jsonl" if str(path).endswith(".jsonl") else "kaldi" for path in paths]
    plain = dict.fromkeys(
        str(path) for path, name in zip(paths, named, strict=True) if name == "kaldi"
    )
    candidates = [_look(path) for path in plain]
    broken = [candidate for candidate in candidates if candidate.obstacle]
    if not broken:
        _mention_words_as_keys(candidates)
        return named
    _refuse_other_forms(broken)
    if "jsonl" in named or len(broken) < len(candidates):
        other = next(str(path) for path in paths if str(path) not in _paths(broken))
        raise UserError(f"{broken[0].obstacle}; {HINT} ({other} can be read by keys)")
    _refuse_tables(broken)
    counts = {candidate.path: len(candidate.lines) for candidate in broken}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{path} has {count}" for path, count in counts.items())
        raise UserError(
            f"{broken[0].obstacle}; nor are these plain lines, paired by number: {each}"
        )
    logging.warning(
        "%s: no tables of keys (%s): read as plain lines, paired by number; --format "
        "says otherwise",
        *(", ".join(counts), broken[0].obstacle),
    )
    return ["lines"] * len(paths)


def _look(path: str) -> Candidate:
    """Read a file and try to parse it as a table; empty files are refused."""
    if not Path(path).is_file():
        raise UserError(f"{path}: {no_file(path)}")
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: no utterance in it, nothing to score")
    try:
        read_table(path)
    except UserError as error:
        return Candidate(path, lines, str(error))
    return Candidate(path, lines, "")


def _paths(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.path for candidate in candidates]


def _refuse_other_forms(broken: Sequence[Candidate]) -> None:
    """Refuse sclite's trn format and JSON: their markup would be scored as words."""
    for candidate in broken:
        lines = [line for line in candidate.lines if line.strip()]
        if lines and all(_TRN.search(line) for line in lines):
            raise UserError(
                f"{candidate.path}: each line ends in (KEY), as sclite's trn files do; "
                "put the key first on its line, or --format lines to score it as a word"
            )
        if lines and all(line.lstrip().startswith("{") for line in lines):
            raise UserError(
                f"{candidate.path}: each line begins with a brace; --format jsonl, or "
                "--format lines if these are plain lines"
            )


def _refuse_tables(broken: Sequence[Candidate]) -> None:
    """Refuse tables that each contain a mistake, instead of reading them as lines.

    They are tables if most lines begin with a key, or if all files have the same first
    words, each once (the obstacle is then an empty line).
    """
    words = [candidate.first_words for candidate in broken]
    once = all(len(set(each)) == len(each) for each in words)
    same = all(set(each) == set(words[0]) for each in words)
    if (once and same) or any(candidate.has_keys for candidate in broken):
        raise UserError(f"{broken[0].obstacle}; {HINT}")


def _mention_words_as_keys(candidates: Sequence[Candidate]) -> None:
    """Log that first words are read as keys, if they look like ordinary words."""
    if candidates and not any(candidate.has_keys for candidate in candidates):
        logging.info(
            "%s: the first word of each line is its key (%s ...); %s",
            *(", ".join(_paths(candidates)), candidates[0].first_words[0], HINT),
        )

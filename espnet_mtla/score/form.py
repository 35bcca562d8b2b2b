"""Tell plain lines from tables of keys, where the user has not said which it is.

A file is a table of keys if each line begins with a word that no other line begins
with. Plain lines can be that too, so nothing is guessed from one file: all files are
tables, or none can be one. A wrong guess would score keys as words, or leave words out
as keys; whatever could be either is refused, or said to be read as tables.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.folder import read_table
from espnet_mtla.errors import UserError

FORMATS = ("auto", "kaldi", "lines", "jsonl")
HINT = "are these plain lines? --format lines"

_TRN = re.compile(r"\([^()\s]+\)\s*$")
_KEY = re.compile(r"\d|_|\w-\w|/")  # in keys of corpora; seldom in words


@dataclass(frozen=True)
class Candidate:
    """A file that is a table of keys or plain lines; ``obstacle``: why not a table."""

    path: str
    lines: list[str]
    obstacle: str

    @property
    def first_words(self) -> list[str]:
        return [line.split(maxsplit=1)[0] for line in self.lines if line.strip()]

    @property
    def has_keys(self) -> bool:
        """Whether most lines begin as keys do, rather than words."""
        words = self.first_words
        return 2 * sum(bool(_KEY.search(word)) for word in words) > len(words)


def read_lines(path: str | Path) -> list[str]:
    """Lines of a UTF-8 file without their ends; a byte-order mark is left out.

    Raises:
        UserError: no file, not UTF-8, or a control character inside a line.
    """
    try:
        # As bytes: text would also be split at a carriage return inside a line.
        content = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
    # Not splitlines(): it would split at rarer separators inside a text, too.
    lines = content.removesuffix("\n").split("\n") if content else []
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, 1):
        if "\r" in line or "\0" in line:
            raise UserError(f"{path}:{number}: control character inside the line")
    return lines


def forms(paths: Sequence[str | Path], form: str) -> list[str]:
    """The form of each file: ``kaldi``, ``lines`` or ``jsonl``.

    Args:
        paths: all files that are paired with each other.
        form: one of :data:`FORMATS`; ``auto`` looks at the files' names and content.
    Raises:
        UserError: ``auto``, and the files can be neither or could be both.
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
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
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
    """Refuse what other programs write: its marks would be scored as words."""
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
    """Refuse tables of keys with a mistake in each, which would pass for plain lines.

    Most lines begin as keys do; or all files have the same first words, each once, and
    what hinders is an empty line.
    """
    words = [candidate.first_words for candidate in broken]
    once = all(len(set(each)) == len(each) for each in words)
    same = all(set(each) == set(words[0]) for each in words)
    if (once and same) or any(candidate.has_keys for candidate in broken):
        raise UserError(f"{broken[0].obstacle}; {HINT}")


def _mention_words_as_keys(candidates: Sequence[Candidate]) -> None:
    """Say that first words are taken for keys, where they look like words."""
    if candidates and not any(candidate.has_keys for candidate in candidates):
        logging.info(
            "%s: the first word of each line is its key (%s ...); %s",
            *(", ".join(_paths(candidates)), candidates[0].first_words[0], HINT),
        )

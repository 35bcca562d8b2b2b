r"""An n-gram language model over the model's tokens, from an ARPA file.

An ARPA file lists n-grams with base-10 logarithms: the probability of the last word
after those before it, and the back-off weight that the n-gram has as a context. Here
the words are tokens. Scores are natural logarithms, as all scores of the search are.

``<s>`` is the context of the first token and ``</s>`` is <eos>. A token that the file
does not know is scored as ``<unk>``, and is ``<unk>`` in contexts. Only contexts that
change a score become states: those with a longer n-gram or a back-off weight.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from espnet_mtla.errors import UserError, no_file
from espnet_mtla.search.backoff import Arc, BackoffAutomaton

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
Words = tuple[str, ...]


@dataclass(frozen=True)
class Ngrams:
    """What an ARPA file holds, in natural logarithms.

    ``log_probs`` has every n-gram, ``backoffs`` those with a weight other than 0.
    """

    order: int
    log_probs: dict[Words, float]
    backoffs: dict[Words, float]


def read_arpa(path: str | Path) -> Ngrams:
    """Read an ARPA file, compressed by gzip if its name ends in ``.gz``.

    Raises:
        UserError: the file is missing, cut off, or not a complete n-gram model; the
            message names the line, the section or the n-gram.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {no_file(path)}")
    try:
        with _open(path) as stream:
            return _Reader(path, stream).read()
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: cut off, or not a gzip file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return open(path, encoding="utf-8", newline="\n")


class _Reader:
    """Reads one ARPA file, and knows the current line for messages."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self.path, self.number = path, 0
        self.lines = self._numbered(stream)
        self.log_probs: dict[Words, float] = {}
        self.backoffs: dict[Words, float] = {}

    def _numbered(self, stream: IO[str]) -> Iterator[str]:
        """Yield lines that are not empty, counting all."""
        for self.number, line in enumerate(stream, 1):
            line = line.strip(" \t\r\n")
            if line:
                yield line

    def _error(self, message: str) -> UserError:
        return UserError(f"{self.path}:{self.number}: {message}")

    def _next(self, section: str) -> str:
        line = next(self.lines, None)
        if line is None:
            raise UserError(f"{self.path}: cut off: ends in {section}")
        return line

    def read(self) -> Ngrams:
        """Read the whole file."""
        counts, line = self._read_counts()
        for order, count in enumerate(counts, 1):
            if line != f"\\{order}-grams:":
                raise self._error(f"\\{order}-grams: expected, not {line!r}")
            line = self._read_section(order, count, order == len(counts))
        if line != "\\end\\":
            raise self._error(f"\\end\\ expected, not {line!r}")
        for word in (BEGIN, END, UNKNOWN):
            if (word,) not in self.log_probs:
                raise UserError(f"{self.path}: the 1-grams lack {word}")
        return Ngrams(len(counts), self.log_probs, self.backoffs)

    def _read_counts(self) -> tuple[list[int], str]:
        r"""Return the counts of section \data\, and the line that follows them."""
        while (line := next(self.lines, None)) != "\\data\\":
            if line is None:
                raise UserError(f"{self.path}: not an ARPA file: it has no \\data\\")
        counts: list[int] = []
        line = self._next("\\data\\")
        while match := re.fullmatch(r"ngram (\d+) *= *(\d+)", line):
            if int(match[1]) != len(counts) + 1:
                raise self._error(f"ngram {len(counts) + 1}= expected, not {line!r}")
            counts.append(int(match[2]))
            line = self._next("\\data\\")
        if not counts:
            raise self._error(f"ngram 1= expected, not {line!r}")
        return counts, line

    def _read_section(self, order: int, count: int, last: bool) -> str:
        """Read the n-grams of one order; return the line behind them."""
        section, found = f"\\{order}-grams:", 0
        while not (line := self._next(section)).startswith("\\"):
            self._read_ngram(line, order, last)
            found += 1
        if found != count:
            raise self._error(f"{section} has {found} n-grams, \\data\\ says {count}")
        return line

    def _read_ngram(self, line: str, order: int, last: bool) -> None:
        fields = re.split(r"[ \t]+", line)
        if not order + 1 <= len(fields) <= order + (1 if last else 2):
            raise self._error(f"not a probability and {order} words: {line!r}")
        words = tuple(fields[1 : order + 1])
        if words in self.log_probs:
            raise self._error(f"n-gram {' '.join(words)!r} is listed twice")
        if order > 1 and words[:-1] not in self.log_probs:
            raise self._error(f"the context {' '.join(words[:-1])!r} is not listed")
        log_prob = self._number(fields[0])
        if not log_prob <= 0:
            raise self._error(f"log-probability {fields[0]} is not a number <= 0")
        self.log_probs[words] = log_prob
        if len(fields) == order + 2:
            weight = self._number(fields[-1])
            if not math.isfinite(weight):
                raise self._error(f"back-off weight {fields[-1]} is not finite")
            if weight:
                self.backoffs[words] = weight

    def _number(self, text: str) -> float:
        """Return a base-10 logarithm as a natural one."""
        try:
            return float(text) * math.log(10)
        except ValueError:
            raise self._error(f"{text!r} is not a number") from None


def ngram_automaton(
    ngrams: Ngrams, token_list: Sequence[str], eos: int
) -> BackoffAutomaton:
    """Build the automaton that scores the tokens of a model.

    Args:
        token_list: the model's tokens, of which ``eos`` is ``</s>``.

    Raises:
        UserError: the n-grams know none of the tokens.
    """
    tokens = _tokens_of_words(ngrams, token_list, eos)
    contexts = {words[:-1] for words in ngrams.log_probs} | {*ngrams.backoffs, ()}
    reachable = [
        context
        for context in sorted(contexts, key=len)
        if len(context) < ngrams.order
        and all(word in tokens for word in context[1:])
        and (not context or context[0] in tokens or context[0] == BEGIN)
    ]
    states = {context: state for state, context in enumerate(reachable)}
    unknown = ngrams.log_probs[UNKNOWN,]
    root_weights = [unknown] * len(token_list)
    root_next = [_longest(states, (UNKNOWN,))] * len(token_list)
    arcs: list[Arc] = []
    for words, log_prob in ngrams.log_probs.items():
        state = states.get(words[:-1])
        if state is None:
            continue
        after = _longest(states, words)
        for token in tokens.get(words[-1], ()):
            if state:
                arcs.append((state, token, log_prob, after))
            else:
                root_weights[token], root_next[token] = log_prob, after
    backoff = [
        (ngrams.backoffs.get(context, 0.0), _longest(states, context[1:]))
        for context in reachable
    ]
    start = _longest(states, (BEGIN,))
    return BackoffAutomaton(root_weights, root_next, arcs, backoff, start)


def _tokens_of_words(
    ngrams: Ngrams, token_list: Sequence[str], eos: int
) -> Mapping[str, list[int]]:
    """Return the ids that each word scores: several for <unk>, one for the others."""
    tokens: dict[str, list[int]] = {UNKNOWN: [], END: [eos]}
    for token, name in enumerate(token_list):
        if token != eos:
            known = (name,) in ngrams.log_probs and name not in (BEGIN, END)
            tokens.setdefault(name if known else UNKNOWN, []).append(token)
    if len(tokens) == 2:
        raise UserError(
            "the n-grams know none of the model's tokens, such as "
            f"{token_list[len(token_list) // 2]!r}; an ARPA file over tokens is needed"
        )
    return tokens


def _longest(states: Mapping[Words, int], words: Words) -> int:
    """Return the state of the longest suffix of ``words`` that has one."""
    while words not in states:
        words = words[1:]
    return states[words]

"""Baselines, for comparison: hypotheses that need no model of the recipe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from espnet_mtla.score.faster_whisper import Options, faster_whisper

# A full stop ends a sentence before a capital; a colon ends one before a list.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*-])|(?<=:)\s")


@dataclass(frozen=True)
class Question:
    """Input of a baseline: data folders and the names of their tables.

    Attributes:
        train: data folder of the training set.
        data: data folder of the set to answer.
        target: name of the table of reference texts, in both folders.
        source: name of the table of source texts; empty if there is none.
        whisper: settings of the baseline faster_whisper.
    """

    train: Path
    data: Path
    target: str
    source: str
    whisper: Options = field(default_factory=Options)

    @property
    def keys(self) -> list[str]:
        """Utterance keys of the set to answer."""
        return list(read_table(self.data / self.target))


def most_frequent(question: Question) -> dict[str, str]:
    """Answer every key with the most frequent training text; ties: the shortest."""
    counts = Counter(read_table(question.train / question.target).values())
    best = min(counts, key=lambda text: (-counts[text], len(text), text))
    return dict.fromkeys(question.keys, best)


def majority(question: Question) -> dict[str, str]:
    """Answer every key with the most frequent first word (intent), no transcript."""
    table = question.train / question.target
    counts = Counter(word for t in read_table(table).values() for word in t.split()[:1])
    if not counts:
        raise UserError(f"{table}: no text has a word, so none has an intent")
    best = min(counts, key=lambda intent: (-counts[intent], intent))
    return dict.fromkeys(question.keys, best)


def first_sentence(question: Question) -> dict[str, str]:
    """Answer each key with the first sentence of its source text."""
    if not question.source:
        raise UserError("first_sentence: needs --source_text, the table of sources")
    sources = read_table(question.data / question.source)
    return {key: SENTENCE_END.split(sources[key])[0] for key in question.keys}


BASELINES: dict[str, Callable[[Question], dict[str, str]]] = {
    "most_frequent": most_frequent,
    "majority": majority,
    "first_sentence": first_sentence,
    "faster_whisper": faster_whisper,
}

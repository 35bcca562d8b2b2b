"""What a system would answer that has learnt next to nothing, for comparison."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.folder import read_table
from espnet_mtla.errors import UserError

# A full stop ends a sentence before a capital; a colon ends one before a list.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*-])|(?<=:)\s")


@dataclass(frozen=True)
class Question:
    """Data folders and the names of their tables; ``source`` may be empty."""

    train: Path
    data: Path
    target: str
    source: str

    @property
    def keys(self) -> list[str]:
        return list(read_table(self.data / self.target))


def most_frequent(question: Question) -> dict[str, str]:
    """The commonest training text for all; of equally common ones the shortest."""
    counts = Counter(read_table(question.train / question.target).values())
    best = min(counts, key=lambda text: (-counts[text], len(text), text))
    return dict.fromkeys(question.keys, best)


def majority(question: Question) -> dict[str, str]:
    """The commonest first word (the intent) for all, and no transcript."""
    table = question.train / question.target
    counts = Counter(word for t in read_table(table).values() for word in t.split()[:1])
    if not counts:
        raise UserError(f"{table}: no text has a word, so none has an intent")
    best = min(counts, key=lambda intent: (-counts[intent], intent))
    return dict.fromkeys(question.keys, best)


def first_sentence(question: Question) -> dict[str, str]:
    """The first sentence of each source."""
    if not question.source:
        raise UserError("first_sentence: needs --source_text, the table of sources")
    sources = read_table(question.data / question.source)
    return {key: SENTENCE_END.split(sources[key])[0] for key in question.keys}


BASELINES: dict[str, Callable[[Question], dict[str, str]]] = {
    "most_frequent": most_frequent,
    "majority": majority,
    "first_sentence": first_sentence,
}

"""Whole recorded prompts: which may be tested on, and which are too alike for that.

Many prompts are variants of each other ("press 1 to ...", the same menu with one entry
more). Drawing test sentences one by one would test on sentences nearly seen. So prompts
that share much of their wording form a group, and a group goes to one side as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from corpus import Recording

# Shorter prompts are words, not sentences: training only.
MIN_WORDS = 3
# Prompts are alike when they share this part of the shorter one's word trigrams.
ALIKE = 0.5
# Larger groups stay in training: one family of prompts should not be half of a test.
MAX_GROUP = 6


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Runs of three words."""
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def alike(one: str, other: str) -> bool:
    """Whether two texts are variants: the same, or half the trigrams in common."""
    a, b = trigrams(one), trigrams(other)
    return one == other or len(a & b) >= ALIKE * min(len(a), len(b)) > 0


def group_texts(texts: Iterable[str]) -> list[list[str]]:
    """Connected groups of alike texts, each sorted, in the order of their first."""
    groups: list[list[str]] = []
    for text in sorted(set(texts)):
        near = [group for group in groups if any(alike(text, t) for t in group)]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([text, *(t for group in near for t in group)]))
    return sorted(groups)


def split_sentences(
    sentences: list[Recording], pieces: list[Recording], sizes: list[int], seed: int
) -> list[list[Recording]]:
    """Held-out parts of about ``sizes`` recordings each, then what is left to train on.

    Held-out groups share no text, no recording and few trigrams with any other part,
    nor with ``pieces``, the recordings that combinations are joined from.
    """
    taken = {r.text for r in pieces}
    groups = group_texts([*(r.text for r in sentences), *taken])
    Random(f"{seed} sentences").shuffle(groups)
    of_text: dict[str, list[Recording]] = {}
    for recording in sentences:
        of_text.setdefault(recording.text, []).append(recording)
    parts: list[list[Recording]] = [[] for _ in sizes]
    train: list[Recording] = []
    for group in groups:
        members = [r for text in group for r in of_text.get(text, [])]
        testable = not taken & set(group) and len(group[0].split()) >= MIN_WORDS
        testable = testable and len(members) <= MAX_GROUP
        room = (p for p, n in zip(parts, sizes, strict=True) if len(p + members) <= n)
        target = next(room, train) if testable else train
        target.extend(members)
    return [*parts, train]

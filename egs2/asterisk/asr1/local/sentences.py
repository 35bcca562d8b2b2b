"""Split of whole recorded prompts into test, validation and training.

Many prompts are variants of each other ("press 1 to ...", a menu with one more entry).
A random split would test on sentences that nearly occur in training. Therefore similar
prompts form a group, and a group is in one set.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from corpus import Recording

# Words of a test sentence, at least; shorter prompts are in training.
MIN_WORDS = 3
# Two prompts are similar if they share this part of the shorter one's word trigrams.
ALIKE = 0.5
# Larger groups are in training: one group should not be half of a test set.
MAX_GROUP = 6


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Return the word trigrams of a text.

    >>> sorted(trigrams("a b c d"))
    [('a', 'b', 'c'), ('b', 'c', 'd')]
    """
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def alike(one: str, other: str) -> bool:
    """Return whether two texts are equal or share half of their trigrams."""
    a, b = trigrams(one), trigrams(other)
    return one == other or len(a & b) >= ALIKE * min(len(a), len(b)) > 0


def group_texts(texts: Iterable[str]) -> list[list[str]]:
    """Return the connected components of similar texts, sorted."""
    groups: list[list[str]] = []
    for text in sorted(set(texts)):
        near = [group for group in groups if any(alike(text, t) for t in group)]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([text, *(t for group in near for t in group)]))
    return sorted(groups)


def split_sentences(
    sentences: list[Recording], pieces: list[Recording], sizes: list[int], seed: int
) -> list[list[Recording]]:
    """Divide sentences into held-out parts and training.

    Held-out groups share no text, no recording and few trigrams with any other part or
    with ``pieces``.

    Args:
        sentences: recordings to divide.
        pieces: recordings that combinations are joined from.
        sizes: recordings of each held-out part, at most.
        seed: of the order of the groups.
    Returns:
        the held-out parts, then training.
    """
    piece_texts = {r.text for r in pieces}
    groups = group_texts([*(r.text for r in sentences), *piece_texts])
    Random(f"{seed} sentences").shuffle(groups)
    of_text: dict[str, list[Recording]] = {}
    for recording in sentences:
        of_text.setdefault(recording.text, []).append(recording)
    parts: list[list[Recording]] = [[] for _ in sizes]
    train: list[Recording] = []
    for group in groups:
        members = [r for text in group for r in of_text.get(text, [])]
        testable = not piece_texts & set(group) and len(group[0].split()) >= MIN_WORDS
        testable = testable and len(members) <= MAX_GROUP
        room = (p for p, n in zip(parts, sizes, strict=True) if len(p + members) <= n)
        target = next(room, train) if testable else train
        target.extend(members)
    return [*parts, train]

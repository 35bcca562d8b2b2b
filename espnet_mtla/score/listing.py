"""Readable listings: reference above hypothesis, worst utterances first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_mtla.score.metric import Request
from espnet_mtla.score.table import pad, width

LISTED = 50
"""Number of utterances that :func:`lowest` lists."""

LINE = 100
"""Maximum width of an alignment in terminal columns; longer ones are wrapped."""

SPACE = "␣"
NAMES = ("ref", "hyp", "   ")


@dataclass(frozen=True)
class AlignedUnits:
    """One edit operation of an alignment.

    ``kind`` is ``=`` (match), ``S`` (substitution), ``D`` (deletion, ``hyp`` is None)
    or ``I`` (insertion, ``ref`` is None).
    """

    kind: str
    ref: str | None
    hyp: str | None

    def __str__(self) -> str:
        shown = (_visible(unit) for unit in (self.ref, self.hyp) if unit is not None)
        return " -> ".join(shown)


@dataclass(frozen=True)
class AlignedUtterance:
    """One aligned utterance: its edit operations from left to right."""

    key: str
    steps: tuple[AlignedUnits, ...]

    def count(self, kind: str) -> int:
        """Count the operations of one ``kind``: ``=``, ``S``, ``D`` or ``I``."""
        return sum(step.kind == kind for step in self.steps)

    @property
    def units(self) -> int:
        """Number of words (or characters) in the reference."""
        return len(self.steps) - self.count("I")

    @property
    def errors(self) -> int:
        """Number of substitutions, deletions and insertions."""
        return len(self.steps) - self.count("=")


def listing(utterances: Sequence[AlignedUtterance], units: str, head: str) -> str:
    """List utterances with errors below ``head``: most errors first, then by rate."""
    wrong = [utterance for utterance in utterances if utterance.errors]
    wrong.sort(key=lambda u: (-u.errors, u.units, u.key))
    count = f"{len(wrong)} of {len(utterances)} utterances have errors"
    blocks = [head, f"{count}, worst first" if wrong else count]
    blocks += ["\n".join(_utterance_lines(utterance, units)) for utterance in wrong]
    return "\n\n".join(blocks) + "\n"


def lowest(request: Request, scores: np.ndarray, name: str, head: str) -> str:
    """List the utterances with the lowest scores.

    Args:
        request: the texts that were scored.
        scores: (N,), one score per utterance.
        name: name of the score in the listing.
        head: text above the list.
    """
    worst = np.argsort(scores, kind="stable")[:LISTED]
    blocks = [head, f"{len(worst)} utterances with the lowest {name}"]
    for i in map(int, worst):
        refs = "\n".join(f"  ref  {ref}" for ref in request.references(i))
        line = f"{request.keys[i]}: {name} {scores[i]:.1f}"
        blocks.append(f"{line}\n{refs}\n  hyp  {request.hyps[i]}")
    return "\n\n".join(blocks) + "\n"


def _utterance_lines(utterance: AlignedUtterance, units: str) -> Iterator[str]:
    yield (
        f"{utterance.key}: errors {utterance.errors}, {units} {utterance.units}"
        f" (sub {utterance.count('S')}, del {utterance.count('D')},"
        f" ins {utterance.count('I')})"
    )
    for block in _blocks(utterance.steps):
        for name, cells in zip(NAMES, zip(*block, strict=True), strict=True):
            yield f"  {name}  {' '.join(cells)}".rstrip()


def _blocks(steps: Sequence[AlignedUnits]) -> Iterator[list[tuple[str, str, str]]]:
    """Yield groups of padded (ref, hyp, mark) cells, each at most ``LINE`` wide."""
    block: list[tuple[str, str, str]] = []
    used = 0
    for step in steps:
        ref, hyp = _visible(step.ref), _visible(step.hyp)
        columns = max(width(ref), width(hyp))
        if block and used + columns + 1 > LINE:
            yield block
            block, used = [], 0
        used += columns + 1
        mark = "" if step.kind == "=" else step.kind
        block.append(
            (
                pad(ref, columns) if step.ref else "*" * columns,
                pad(hyp, columns) if step.hyp else "*" * columns,
                pad(mark, columns),
            )
        )
    yield block


def _visible(unit: str | None) -> str:
    """Return the unit as printed: a space as ``SPACE``, None as an empty string."""
    return SPACE if unit == " " else unit or ""

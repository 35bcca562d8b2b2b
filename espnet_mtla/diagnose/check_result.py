"""One comparison of two ways to the same numbers, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.search.beam import Hypothesis


@dataclass(frozen=True)
class Finding:
    """What was compared, how far apart it is at worst, and where.

    ``difference`` is None where the check could not be made; ``compared`` says why.
    Different tokens count as infinitely far apart.
    """

    check: str
    compared: str
    difference: float | None = None
    allowed: float = 0.0
    where: str = ""

    @property
    def fails(self) -> bool:
        """NaN fails, too."""
        return self.difference is not None and not self.difference <= self.allowed

    @property
    def verdict(self) -> str:
        if self.difference is None:
            return "not made"
        return f"DIFFERENT {self.where}".rstrip() if self.fails else "same"


def as_table(findings: Sequence[Finding]) -> str:
    """For the screen; the verdict last."""
    from espnet_mtla.score.table import aligned

    rows = []
    for found in findings:
        figures = ["-", "-"]
        if found.difference is not None:
            shown = f"{found.difference:.1e}"
            figures = [
                "tokens" if found.difference == math.inf else shown,
                f"{found.allowed:.0e}",
            ]
        rows.append([found.check, found.compared, *figures, found.verdict])
    header = ["check", "compared", "differs by", "allowed", "verdict"]
    return aligned(header, rows, left=2)


def hypotheses_apart(one: Sequence[Hypothesis], other: Sequence[Hypothesis]) -> float:
    """Largest relative difference of scores; infinity where tokens differ."""
    if [h.tokens for h in one] != [h.tokens for h in other]:
        return math.inf
    pairs = zip(one, other, strict=True)
    return max((relative(a.score, b.score) for a, b in pairs), default=0.0)


def relative(a: float, b: float) -> float:
    """Their difference as a share of the larger one, or of 1."""
    return abs(a - b) / max(1.0, abs(a), abs(b))

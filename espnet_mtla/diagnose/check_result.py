"""Result of a check that two ways of computing agree, and a table of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.search.beam import Hypothesis


@dataclass(frozen=True)
class CheckResult:
    """Largest difference between two ways of computing, and where it occurs.

    Attributes:
        check: name of the check.
        compared: what was compared or, if ``difference`` is None, why nothing was.
        difference: largest difference; infinite if tokens differ.
        allowed: largest difference that passes.
        where: place of the largest difference.
        details: a line for each place where the two differ.
    """

    check: str
    compared: str
    difference: float | None = None
    allowed: float = 0.0
    where: str = ""
    details: tuple[str, ...] = ()

    @property
    def fails(self) -> bool:
        """True if the difference is too large, or NaN."""
        return self.difference is not None and not self.difference <= self.allowed

    @property
    def verdict(self) -> str:
        """``same``, ``DIFFERENT`` with the place, or ``not made``."""
        if self.difference is None:
            return "not made"
        return f"DIFFERENT {self.where}".rstrip() if self.fails else "same"


def worst(
    check: str,
    compared: str,
    differences: Iterable[tuple[str, float]],
    allowed: float = 0.0,
) -> CheckResult:
    """Return the result of a check at several places: that of the worst of them.

    >>> worst("a = b", "2 utterances", [("u1", 0.1), ("u2", math.nan)], 0.5).verdict
    'DIFFERENT u2'

    Args:
        check: name of the check.
        compared: what was compared.
        differences: each place and the difference there; NaN is worst of all.
        allowed: largest difference that passes.
    """
    largest, where = 0.0, ""
    for place, difference in differences:
        if not difference <= largest:
            largest, where = difference, place
        if math.isnan(largest):
            break
    return CheckResult(check, compared, largest, allowed, where)


def as_table(results: Sequence[CheckResult]) -> str:
    """Return a table for the screen, with the details of failed checks below it."""
    from espnet_mtla.score.table import aligned

    rows = []
    for result in results:
        figures = ["-", "-"]
        if result.difference is not None:
            shown = f"{result.difference:.1e}"
            figures = [
                "tokens" if result.difference == math.inf else shown,
                f"{result.allowed:.0e}",
            ]
        rows.append([result.check, result.compared, *figures, result.verdict])
    header = ["check", "compared", "differs by", "allowed", "verdict"]
    details = [line for result in results for line in result.details]
    return "\n".join([aligned(header, rows, left=2), *details])


def hypotheses_apart(one: Sequence[Hypothesis], other: Sequence[Hypothesis]) -> float:
    """Return the largest relative difference of scores; infinity if tokens differ."""
    if [h.tokens for h in one] != [h.tokens for h in other]:
        return math.inf
    pairs = zip(one, other, strict=True)
    return max((relative(a.score, b.score) for a, b in pairs), default=0.0)


def relative(a: float, b: float) -> float:
    """Return the difference, relative to the larger number or to 1.

    >>> relative(-4.0, -5.0), relative(0.0, 0.5)
    (0.2, 0.5)
    """
    return abs(a - b) / max(1.0, abs(a), abs(b))

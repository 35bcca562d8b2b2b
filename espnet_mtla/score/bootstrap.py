"""How sure an error rate is: resampling whole utterances with replacement.

Errors within an utterance depend on each other, utterances hardly do: so utterances are
drawn, not words. Rates are in percent, 100 * errors / reference words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1_000_000
"""Drawn indices held at a time: bounds memory for sets of any size."""

PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Difference:
    """Rate of a system less that of another, both on the same utterances.

    ``low`` and ``high`` bound 95 % of the resampled differences. ``p`` is two-sided:
    twice the share of resamples on the far side of zero (at most 1).
    """

    difference: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves out 0, else ``same``."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "same"


def interval(
    errors: np.ndarray, words: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the error rate.

    Args:
        errors: (N,) whole numbers, errors of each utterance.
        words: (N,) whole numbers > 0, words of each reference.
        resamples: draws of N utterances.
        seed: the same seed gives the same interval.
    """
    drawn = _resampled_sums(np.stack([errors, words]), resamples, seed)
    low, high = np.percentile(100 * drawn[0] / drawn[1], PERCENTILES)
    return float(low), float(high)


def paired(
    errors: np.ndarray,
    base_errors: np.ndarray,
    words: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same draws: what is hard for both cancels out.

    All arrays are (N,), in the same order of utterances. Negative differences say that
    ``errors`` belongs to the better system.
    """
    surplus = np.asarray(errors) - np.asarray(base_errors)
    drawn = _resampled_sums(np.stack([surplus, words]), resamples, seed)
    differences = 100 * drawn[0] / drawn[1]
    low, high = np.percentile(differences, PERCENTILES)
    # One is added to both counts: p = 0 would claim more than a finite number of draws
    # can show.
    below = (1 + np.count_nonzero(differences <= 0)) / (resamples + 1)
    above = (1 + np.count_nonzero(differences >= 0)) / (resamples + 1)
    return Difference(
        difference=float(100 * surplus.sum() / np.sum(words)),
        low=float(low),
        high=float(high),
        p=float(min(1.0, 2 * min(below, above))),
    )


def _resampled_sums(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(C, N) figures of N utterances -> (C, resamples) sums over N drawn ones."""
    count = columns.shape[1]
    generator = np.random.default_rng(seed)
    rows = max(1, BLOCK // count)
    blocks = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        blocks.append(columns[:, drawn].sum(axis=2))
    return np.concatenate(blocks, axis=1)

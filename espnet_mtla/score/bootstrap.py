"""Bootstrap confidence intervals: resample whole utterances with replacement.

Errors within an utterance are correlated, utterances are nearly independent: so
utterances are drawn, not words. A score is a function of figures summed over
utterances: an error rate of errors and words, BLEU of matched and total n-grams. A draw
without a reference word has no score and is replaced by another draw: intervals are
conditional on draws that have a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_mtla.errors import UserError

BLOCK = 1_000_000
"""Most drawn indices in memory at once, for sets of any size."""

PERCENTILES = (2.5, 97.5)

Rate = Callable[[np.ndarray], np.ndarray]
"""A function from figures summed over utterances, (C, R) for R draws, to R scores."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """Return 100 * first figure / second figure, in percent; NaN where it divides by 0.

    >>> ratio(np.array([[1.0, 2.0], [4.0, 0.0]]))
    array([25., nan])
    """
    undefined = np.full(np.shape(sums[0]), np.nan)
    return 100 * np.divide(sums[0], sums[1], out=undefined, where=sums[1] != 0)


@dataclass(frozen=True)
class Difference:
    """Difference of two systems' scores on the same utterances (first - second).

    ``low`` and ``high`` bound 95 % of the resampled differences. ``p`` is two-sided,
    the share of resamples that deviate from their mean by at least the difference
    (Riezler and Maxwell, 2005). sacrebleu's p is one-sided, about half of it.
    """

    difference: float
    low: float
    high: float
    p: float
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``same`` if the interval contains 0, else ``better`` or ``worse``."""
        if self.low <= 0 <= self.high:
            return "same"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def interval(
    errors: np.ndarray, words: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile interval of an error rate.

    Args:
        errors: (N,) integers, errors of each utterance.
        words: (N,) integers, words of each reference; at least one is above 0.
        resamples: number of draws of N utterances.
        seed: the same seed gives the same interval.
    Returns:
        Lower and upper bound, in percent.
    """
    return percentiles(np.stack([errors, words]), ratio, resamples, seed)


def percentiles(
    figures: np.ndarray, rate: Rate, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % percentile interval of a score.

    Args:
        figures: (C, N) figures of N utterances; ``rate`` takes their sums.
        rate: the score as a function of summed figures.
        resamples: number of draws of N utterances.
        seed: the same seed gives the same interval.
    Returns:
        Lower and upper bound of the score.
    """
    (drawn,) = _resampled_scores([figures], rate, resamples, seed)
    low, high = np.percentile(drawn, PERCENTILES)
    return float(low), float(high)


def paired(
    errors: np.ndarray,
    base_errors: np.ndarray,
    words: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two error rates; all arrays (N,), in the same order of utterances."""
    ours, base = np.stack([errors, words]), np.stack([base_errors, words])
    return compare(ours, base, ratio, resamples=resamples, seed=seed)


def compare(
    ours: np.ndarray,
    base: np.ndarray,
    rate: Rate,
    higher_is_better: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same draws: a paired bootstrap.

    Pairing removes the variance that both systems share, that of difficult utterances.

    Args:
        ours, base: (C, N) figures of N utterances, in the same order.
        rate: the score as a function of summed figures.
        higher_is_better: the direction of the score, for the verdict.
        resamples: number of draws of N utterances.
        seed: the same seed gives the same result.
    Returns:
        The score of ``ours`` minus that of ``base``, with interval and p-value.
    Raises:
        UserError: no reference has a word.
    """
    drawn, base_drawn = _resampled_scores([ours, base], rate, resamples, seed)
    differences = drawn - base_drawn
    low, high = np.percentile(differences, PERCENTILES)
    whole = [rate(figures.sum(1, keepdims=True))[0] for figures in (ours, base)]
    difference = float(whole[0] - whole[1])
    extreme = np.abs(differences - differences.mean()) >= abs(difference)
    return Difference(
        difference=difference,
        low=float(low),
        high=float(high),
        # Add-one estimate: a finite number of draws cannot support p = 0.
        p=float((1 + np.count_nonzero(extreme)) / (resamples + 1)),
        higher_is_better=higher_is_better,
    )


def _resampled_scores(
    systems: Sequence[np.ndarray], rate: Rate, resamples: int, seed: int
) -> np.ndarray:
    """Compute the scores of S systems on the same draws, (S, resamples).

    Raises:
        UserError: all utterances together have no score.
    """
    if not all(np.isfinite(rate(figures.sum(1, keepdims=True))) for figures in systems):
        raise UserError("no utterance has a word of reference: there is no score")
    columns, generator = np.concatenate(systems), np.random.default_rng(seed)
    blocks, missing = [], resamples
    # Terminates: some utterance has a reference word, and a draw of N utterances
    # contains it with a probability of at least 1 - 1/e.
    while missing:
        sums = _resampled_sums(columns, missing, generator)
        scores = np.stack([rate(part) for part in np.split(sums, len(systems))])
        blocks.append(scores[:, np.isfinite(scores).all(0)])
        missing -= blocks[-1].shape[1]
    return np.concatenate(blocks, axis=1)


def _resampled_sums(
    columns: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Sum the figures of N drawn utterances, (C, N) -> (C, resamples)."""
    count = columns.shape[1]
    rows = max(1, BLOCK // count)
    blocks = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        blocks.append(columns[:, drawn].sum(axis=2))
    return np.concatenate(blocks, axis=1)

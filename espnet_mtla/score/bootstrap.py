"""How sure a score is: resampling whole utterances with replacement.

Errors within an utterance depend on each other, utterances hardly do: so utterances are
drawn, not words. A score is a function of figures summed over utterances: an error rate
of errors and words, BLEU of matched and possible n-grams. A draw that has no score,
because it holds no word of reference, is replaced by another: intervals are those of
the draws that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_mtla.errors import UserError

BLOCK = 1_000_000
"""Drawn indices held at a time: bounds memory for sets of any size."""

PERCENTILES = (2.5, 97.5)

Rate = Callable[[np.ndarray], np.ndarray]
"""Figures summed over utterances, (C, R) of R draws, to R scores."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """Percent: 100 * the first figure / the second; NaN where that is 0."""
    nothing = np.full(np.shape(sums[0]), np.nan)
    return 100 * np.divide(sums[0], sums[1], out=nothing, where=sums[1] != 0)


@dataclass(frozen=True)
class Difference:
    """Score of a system less that of another, both on the same utterances.

    ``low`` and ``high`` bound 95 % of the resampled differences. ``p`` is the share of
    resamples that stray from their mean, to either side, as far as the difference is
    from zero (Riezler and Maxwell, 2005); sacrebleu counts one side, about half of it.
    """

    difference: float
    low: float
    high: float
    p: float
    higher_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves out 0, else ``same``."""
        if self.low <= 0 <= self.high:
            return "same"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def interval(
    errors: np.ndarray, words: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the error rate.

    Args:
        errors: (N,) whole numbers, errors of each utterance.
        words: (N,) whole numbers, words of each reference; any is above 0.
        resamples: draws of N utterances.
        seed: the same seed gives the same interval.
    """
    return percentiles(np.stack([errors, words]), ratio, resamples, seed)


def percentiles(
    figures: np.ndarray, rate: Rate, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of ``rate``; ``figures`` (C, N) are those it sums."""
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
    """Compare two systems on the same draws: what is hard for both cancels out.

    Args:
        ours, base: (C, N) figures of N utterances, in the same order.
    """
    drawn, base_drawn = _resampled_scores([ours, base], rate, resamples, seed)
    differences = drawn - base_drawn
    low, high = np.percentile(differences, PERCENTILES)
    whole = [rate(figures.sum(1, keepdims=True))[0] for figures in (ours, base)]
    difference = float(whole[0] - whole[1])
    strays = np.abs(differences - differences.mean()) >= abs(difference)
    return Difference(
        difference=difference,
        low=float(low),
        high=float(high),
        # One more on both sides: p = 0 would claim more than draws can show.
        p=float((1 + np.count_nonzero(strays)) / (resamples + 1)),
        higher_is_better=higher_is_better,
    )


def _resampled_scores(
    systems: Sequence[np.ndarray], rate: Rate, resamples: int, seed: int
) -> np.ndarray:
    """Scores of S systems on the same draws, (S, resamples).

    Raises:
        UserError: not even all utterances together have a score.
    """
    if not all(np.isfinite(rate(figures.sum(1, keepdims=True))) for figures in systems):
        raise UserError("no utterance has a word of reference: there is no score")
    columns, generator = np.concatenate(systems), np.random.default_rng(seed)
    blocks, missing = [], resamples
    while missing:  # all utterances have a score, so two draws of three have one
        sums = _resampled_sums(columns, missing, generator)
        scores = np.stack([rate(part) for part in np.split(sums, len(systems))])
        blocks.append(scores[:, np.isfinite(scores).all(0)])
        missing -= blocks[-1].shape[1]
    return np.concatenate(blocks, axis=1)


def _resampled_sums(
    columns: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """(C, N) figures of N utterances -> (C, resamples) sums over N drawn ones."""
    count = columns.shape[1]
    rows = max(1, BLOCK // count)
    blocks = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        blocks.append(columns[:, drawn].sum(axis=2))
    return np.concatenate(blocks, axis=1)

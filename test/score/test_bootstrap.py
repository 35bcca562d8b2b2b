"""Intervals cover what they promise; comparing a system with itself finds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.score import bootstrap
from espnet_mtla.score.bootstrap import Difference, interval, paired

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1)


def test_interval_of_binomial_errors_covers_the_true_rate():
    """95 % nominal; 300 trials put the standard deviation of the share at 1.3 %."""
    generator = np.random.default_rng(1)
    words = np.full(120, 8)
    covered = 0
    for trial in range(300):
        low, high = interval(generator.binomial(words, 0.1), words, 400, trial)
        covered += low <= 10 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_has_the_width_of_the_normal_approximation():
    words = np.full(2000, 10)
    errors = np.random.default_rng(0).binomial(words, 0.2)
    low, high = interval(errors, words, 2000)
    expected = 2 * 1.96 * 100 * np.std(errors / 10) / np.sqrt(2000)
    assert high - low == pytest.approx(expected, rel=0.08)


def test_utterances_are_drawn_not_words():
    """All errors in one utterance: a draw has none, one or some of it."""
    errors, words = np.array([100, *[0] * 9]), np.full(10, 100)
    low, high = interval(errors, words)
    assert low == 0
    assert high >= 30


def test_seed_settles_the_draws(monkeypatch):
    generator = np.random.default_rng(0)
    errors, words = generator.integers(0, 5, 50), generator.integers(5, 9, 50)
    assert interval(errors, words, seed=3) == interval(errors, words, seed=3)
    assert interval(errors, words, seed=3) != interval(errors, words, seed=4)
    # Blocks only bound memory: they must not leave out or double any draw.
    monkeypatch.setattr(bootstrap, "BLOCK", 170)
    generator = np.random.default_rng(3)
    drawn = bootstrap._resampled_sums(np.stack([errors, words]), 1000, generator)
    assert drawn.shape == (2, 1000)
    assert len({tuple(pair) for pair in drawn.T}) > 300


@settings(max_examples=30)
@given(counts)
def test_interval_stays_within_the_utterances_own_rates(pairs):
    errors, words = np.array(pairs).T
    low, high = interval(errors, words, 50)
    rates = 100 * errors / words
    assert rates.min() - 1e-9 <= low <= high <= rates.max() + 1e-9


@settings(max_examples=30)
@given(counts)
def test_identical_systems_do_not_differ(pairs):
    errors, words = np.array(pairs).T
    found = paired(errors, errors, words, 50)
    assert found == Difference(0.0, 0.0, 0.0, 1.0)
    assert found.verdict == "same"


def test_paired_finds_what_separate_intervals_cannot_show():
    generator = np.random.default_rng(0)
    words = np.full(400, 10)
    base = generator.integers(0, 10, 400)  # very uneven utterances: wide intervals
    ours = np.maximum(base - generator.integers(0, 2, 400), 0)
    assert interval(ours, words)[1] > interval(base, words)[0]
    found = paired(ours, base, words)
    assert found.high < 0
    assert found.p == pytest.approx(1 / 1001)
    assert found.verdict == "better"


def test_exchanging_the_systems_turns_the_sign():
    generator = np.random.default_rng(5)
    words = np.full(60, 5)
    ours, base = generator.integers(0, 4, (2, 60))
    there, back = paired(ours, base, words), paired(base, ours, words)
    assert there.difference == -back.difference
    assert there.low == pytest.approx(-back.high)
    assert there.p == back.p
    assert there.difference == pytest.approx(100 * (ours.sum() - base.sum()) / 300)


def test_p_of_equally_good_systems_is_seldom_small():
    generator = np.random.default_rng(2)
    words = np.full(80, 10)
    small = 0
    for trial in range(200):
        ours, base = generator.binomial(10, 0.1, (2, 80))
        small += paired(ours, base, words, 300, trial).p < 0.05
    assert small / 200 <= 0.11

"""What every metric must do: a new one in METRICS is tested here without more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from espnet_mtla.score import metric
from espnet_mtla.score.metric import METRICS, Metric, Report, Request, rate_of, score

REFS = ("play music now", "stop the loud music", "play it again sam", "wait here a bit")
GOOD = ("play music now", "stop the loud music", "play it again pam", "wait here a bit")
BAD = ("stop my tie", "stop music", "who is it again", "play here bit")
every_metric = pytest.mark.parametrize("name", METRICS)


def request(hyps: tuple[str, ...], others: tuple[str, ...] | None = None) -> Request:
    keys = tuple(f"u{index}" for index in range(len(REFS)))
    return Request(keys, REFS, hyps, others, resamples=200)


def value_of(name: str, hyps: tuple[str, ...]) -> float:
    return score(name, request(hyps)).summary[METRICS[name].value]


@every_metric
def test_the_sums_of_figures_give_the_score(name: str) -> None:
    report = score(name, request(BAD))
    lines = [
        np.concatenate([np.atleast_1d(line[f]) for f in METRICS[name].figures])
        for line in report.utterances
    ]
    rated = rate_of(name)(np.array(lines, dtype=float).sum(0)[:, None])[0]
    assert rated == pytest.approx(report.summary[METRICS[name].value])
    assert [line["key"] for line in report.utterances] == ["u0", "u1", "u2", "u3"]


@every_metric
def test_the_direction_is_that_of_the_scores(name: str) -> None:
    perfect, good, bad = (value_of(name, hyps) for hyps in (REFS, GOOD, BAD))
    if METRICS[name].higher_is_better:
        assert perfect >= good > bad and perfect == pytest.approx(100)
    else:
        assert perfect <= good < bad and perfect == 0


@every_metric
def test_the_interval_has_the_score_in_it(name: str) -> None:
    summary = score(name, request(BAD)).summary
    low, high = summary["ci95"]
    assert low <= summary[METRICS[name].value] <= high and low < high


@every_metric
def test_a_second_system_is_compared(name: str) -> None:
    key = METRICS[name].value
    summary = score(name, request(GOOD, others=BAD)).summary
    compared = summary["compare"]
    if isinstance(compared[key], dict):  # ROUGE: a comparison of each of its scores
        compared = compared[key]
    assert compared[key] == pytest.approx(value_of(name, BAD))
    assert compared["difference"] == pytest.approx(summary[key] - compared[key])
    better = compared["difference"] > 0
    assert better == METRICS[name].higher_is_better
    assert compared["low"] <= compared["difference"] <= compared["high"]


@pytest.mark.parametrize("part", ["summary", "utterances"])
def test_what_a_report_lacks_is_named(part: str, monkeypatch) -> None:
    summary = {"utterances": 1, "ref_words": 3, "x": 50.0, "ci95": [0, 100], "hits": 1}
    line = {"key": "u0", "ref_words": 3, "hits": 1, "one": 1}
    fine = Report(summary, [line], "", "")
    monkeypatch.setitem(
        METRICS, "x", Metric("", "X", "x", ("hits", "one"), "", "{hits}")
    )
    reports = []
    monkeypatch.setattr(metric, "resolve", lambda _name: lambda _: reports.pop())
    reports.append(fine)
    assert score("x", request(BAD)) is fine
    reports.append(fine)
    with pytest.raises(TypeError, match=r"metric x: its report lacks compare$"):
        score("x", request(BAD, others=GOOD))
    whole = summary if part == "summary" else line
    for key in whole:
        short = {k: v for k, v in whole.items() if k != key}
        changed = {part: short if part == "summary" else [short]}
        reports.append(dataclasses.replace(fine, **changed))
        with pytest.raises(TypeError, match=rf"metric x: its report lacks {key}$"):
            score("x", request(BAD))

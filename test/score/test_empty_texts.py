"""Empty references and empty hypotheses in every metric.

Counts are those of jiwer, sacrebleu, rouge-score and scikit-learn, or made by hand.
"""

from __future__ import annotations

import json
import math
import sys

import jiwer
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from espnet_mtla.bin import score
from espnet_mtla.data.table import write_table
from espnet_mtla.errors import UserError
from espnet_mtla.score import bootstrap, render
from espnet_mtla.score.baseline import BASELINES, Question
from espnet_mtla.score.bootstrap import interval, paired
from espnet_mtla.score.metric import METRICS, Request, rate_of, resolve
from espnet_mtla.score.results import collect
from test.support.scored_experiments import make_experiment

WORDS = ["the", "cat", "sat", "on", "mats", "mat", "7"]
anything = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
texts = st.lists(st.tuples(anything, anything, anything), min_size=1, max_size=6)
spoken = texts.filter(lambda rows: any(ref for ref, _, _ in rows))


def request(refs, hyps, **options) -> Request:
    keys = tuple(f"u{i}" for i in range(len(refs)))
    options.setdefault("resamples", 20)
    return Request(keys, tuple(refs), tuple(hyps), **options)


def rescored(name: str, report) -> float:
    """The score from the lines of utterances.jsonl alone, as the tables compare it."""
    lines = [
        np.concatenate([np.atleast_1d(line[f]) for f in METRICS[name].figures])
        for line in report.utterances
    ]
    return float(rate_of(name)(np.array(lines).sum(0)[:, None])[0])


def test_what_is_said_against_an_empty_reference_is_inserted():
    report = resolve("wer")(request(["a b", "", ""], ["a", "x y z", ""]))
    summary = report.summary
    assert [summary[k] for k in ("sub", "del", "ins", "ref_words")] == [0, 1, 3, 2]
    assert (summary["wer"], summary["empty_refs"]) == (200.0, 2)
    assert summary["sentence_errors"] == 2
    assert "2 of 3 references without a word (first: u1): all that" in report.terminal
    assert "u1: errors 3, words 0 (sub 0, del 0, ins 3)" in report.listing
    assert "  ref  * * *\n  hyp  x y z\n       I I I\n" in report.listing
    assert [u["errors"] for u in report.utterances] == [1, 3, 0]


def test_characters_are_inserted_too():
    summary = resolve("cer")(request(["ab c", ""], ["ab c", "x y"])).summary
    assert (summary["ins"], summary["ref_words"], summary["wer"]) == (3, 4, 75.0)


@settings(max_examples=60)
@given(spoken)
def test_error_rates_are_those_of_jiwer(rows):
    refs, hyps, others = map(list, zip(*rows, strict=True))
    for name, of_jiwer in (("wer", jiwer.wer), ("cer", jiwer.cer)):
        report = resolve(name)(request(refs, hyps, others=tuple(others)))
        expected = 100 * of_jiwer(refs, hyps)
        assert report.summary["wer"] == pytest.approx(expected)
        assert rescored(name, report) == pytest.approx(expected)
        assert report.summary["compare"]["wer"] == pytest.approx(
            100 * of_jiwer(refs, others)
        )
        assert report.summary["empty_refs"] == refs.count("")
        assert ("without a word" in report.terminal) == ("" in refs)
        assert all(map(math.isfinite, report.summary["ci95"]))
        json.dumps(report.summary, allow_nan=False)


@settings(max_examples=40)
@given(spoken, st.booleans())
def test_bleu_and_chrf_are_those_of_sacrebleu(rows, several):
    """Also where one of several references is empty: its length is 0 there."""
    refs, more, hyps = map(list, zip(*rows, strict=True))
    streams = [refs, more] if several else [refs]
    options = {"more_refs": tuple((text,) for text in more)} if several else {}
    report = resolve("bleu")(request(refs, hyps, others=tuple(refs), **options))
    bleu = sacrebleu.corpus_bleu(hyps, streams)
    assert report.summary["bleu"] == pytest.approx(bleu.score)
    assert rescored("bleu", report) == pytest.approx(bleu.score)
    chrf = sacrebleu.corpus_chrf(hyps, streams).score
    assert report.summary["chrf"] == pytest.approx(chrf)
    assert report.summary["empty_refs"] == sum(s.count("") for s in streams)
    json.dumps(report.summary, allow_nan=False)


def test_bleu_counts_the_length_of_what_stands_against_an_empty_reference():
    refs, noise = ["the cat sat on a mat", ""], ["the cat sat on a mat", "x y z"]
    quiet = resolve("bleu")(request(refs, refs)).summary
    noisy = resolve("bleu")(request(refs, noise)).summary
    assert quiet["bleu"] == pytest.approx(100)
    assert noisy["length_ratio"] == pytest.approx(9 / 6)
    assert noisy["bleu"] < 80


@settings(max_examples=40)
@given(spoken)
def test_rouge_is_the_mean_of_rouge_score(rows):
    refs, more, hyps = map(list, zip(*rows, strict=True))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = zip(refs, more, hyps, strict=True)
    expected = [scorer.score_multi([a, b], hyp) for a, b, hyp in pairs]
    options = {"more_refs": tuple((text,) for text in more)}
    report = resolve("rouge")(request(refs, hyps, **options))
    for kind in ("rouge1", "rouge2", "rougeL"):
        mean = 100 * np.mean([row[kind].fmeasure for row in expected])
        assert report.summary[kind] == pytest.approx(mean)
    assert rescored("rouge", report) == pytest.approx(report.summary["rouge1"])


def test_rouge_says_which_references_it_cannot_see():
    report = resolve("rouge")(request(["a cat", "кошка", ""], ["a cat", "кошка", ""]))
    assert report.summary["rouge1"] == pytest.approx(100 / 3)
    assert report.summary["empty_refs"] == 2
    line = "2 of 3 references without a word of a-z or 0-9 (first: u1): they score 0"
    assert line in report.terminal


@settings(max_examples=40)
@given(spoken)
def test_intents_are_those_of_scikit_learn(rows):
    metrics = pytest.importorskip("sklearn.metrics")
    refs, hyps, _ = map(list, zip(*rows, strict=True))
    wanted, answered = (
        [(text.split() or [""])[0] for text in side] for side in (refs, hyps)
    )
    report = resolve("intent")(request(refs, hyps))
    accuracy = metrics.accuracy_score(wanted, answered)
    assert report.summary["accuracy"] == pytest.approx(100 * accuracy)
    f1 = metrics.f1_score(
        *(wanted, answered), labels=sorted(set(wanted)), average="macro"
    )
    assert report.summary["macro_f1"] == pytest.approx(100 * f1)
    behind = [[" ".join(t.split()[1:]) for t in side] for side in (refs, hyps)]
    if any(behind[0]):
        rate = 100 * jiwer.wer(*behind)
        assert report.summary["transcript_wer"] == pytest.approx(rate)
    else:
        assert report.summary["transcript_wer"] is None


def test_words_behind_an_intent_that_has_none_are_inserted():
    refs, hyps = ["play jazz", "stop", ""], ["play jazz", "stop it now", "go on"]
    report = resolve("intent")(request(refs, hyps))
    assert report.summary["transcript_wer"] == pytest.approx(100 * 3 / 1)
    assert report.summary["accuracy"] == pytest.approx(200 / 3)
    assert report.summary["unknown_intents"] == 1  # go
    assert "(first: u2): (nothing) is the right intent there" in report.terminal


@pytest.mark.parametrize("name", METRICS)
def test_only_a_set_without_any_word_is_refused(name):
    with pytest.raises(UserError, match=r"none of 2 references has a word.* u0, is ''"):
        resolve(name)(request(["", ""], ["x", ""]))
    resolve(name)(request(["", "a"], ["x", ""]))


@pytest.mark.parametrize("name", METRICS)
def test_empty_hypotheses_alone(name):
    report = resolve(name)(request(["the cat sat", "a dog"], ["", ""]))
    value = report.summary[METRICS[name].value]
    assert value == (0 if METRICS[name].higher_is_better else 100)
    json.dumps(report.summary, allow_nan=False)


counts = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1)


@settings(max_examples=40)
@given(counts.filter(lambda rows: any(words for _, words in rows)), st.integers(1, 5))
def test_draws_without_a_word_of_reference_are_drawn_again(rows, resamples):
    errors, words = np.array(rows).T
    drawn = bootstrap._resampled_scores(
        [np.stack([errors, words])], bootstrap.ratio, resamples, 0
    )
    assert drawn.shape == (1, resamples)
    assert np.isfinite(drawn).all()
    same = paired(errors, errors, words, resamples)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_interval_is_that_of_the_draws_with_a_word():
    """Utterances of 1 word, right, and of 0, with one insertion: the rate is k/(2-k).

    Of two draws from {word, nothing}, one in four has no word; of the others a third
    has two words (0 %) and two thirds have one word and one insertion (100 %).
    """
    drawn = bootstrap._resampled_scores(
        [np.array([[0, 1], [1, 0]])], bootstrap.ratio, 9000, 0
    )
    assert set(drawn[0]) == {0.0, 100.0}
    assert np.mean(drawn == 100) == pytest.approx(2 / 3, abs=0.02)


def test_without_any_word_there_is_no_interval():
    with pytest.raises(UserError, match="no utterance has a word of reference"):
        interval(np.array([1, 2]), np.array([0, 0]))


def run_score(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
    score.main()


@pytest.mark.parametrize("metric", METRICS)
def test_from_the_command_to_the_table(tmp_path, monkeypatch, capsys, metric):
    """An empty reference and empty hypotheses, in score, RESULTS and the comparison."""
    refs = {f"u{i}": f"the {w} sat" for i, w in enumerate("abcdef")} | {"u9": ""}
    write_table(tmp_path / "ref", refs)
    systems = {
        "mha": {**refs, "u9": "some noise"},
        "mtla_s2": {**dict.fromkeys(refs, ""), "u0": refs["u0"]},
    }
    made = []
    for system, hyps in systems.items():
        folder = make_experiment(tmp_path, f"asr_x_{system}", system)
        made.append(folder)
        write_table(folder / "hyp", hyps)
        out = folder / "decode_beam10" / "test" / f"score_{metric}"
        files = ("--ref", tmp_path / "ref", "--hyp", folder / "hyp")
        run_score(monkeypatch, metric, *files, "--output_dir", out)
        assert "1 of 7 references without a word" in capsys.readouterr().out
        assert json.loads((out / "score.json").read_text())["empty_refs"] == 1
    (table,) = collect(made, metric=metric)
    assert table.rows[1].difference.verdict in ("worse", "same")
    text = render.terminal([table])
    assert "references without a word: 1;" in text
    assert "nan" not in text


def test_the_commonest_intent_of_texts_some_of_which_are_empty(tmp_path):
    write_table(tmp_path / "train" / "text", {"a": "", "b": "stop it", "c": ""})
    write_table(tmp_path / "test" / "text", {"x": ""})
    question = Question(tmp_path / "train", tmp_path / "test", "text", "")
    assert BASELINES["majority"](question) == {"x": "stop"}
    write_table(tmp_path / "train" / "text", {"a": ""})
    with pytest.raises(UserError, match="train/text: no text has a word"):
        BASELINES["majority"](question)

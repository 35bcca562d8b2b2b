"""BLEU, ROUGE and intents against sacrebleu, rouge-score and counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.significance import PairedTest

from espnet_mtla.errors import UserError
from espnet_mtla.score.metric import METRICS, Request, rate_of, resolve

WORDS = ["The", "cat", "sat", "on", "mats", "mat", ",", "Katzen", "7", "over"]
sentence = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
rows = st.lists(st.tuples(sentence, sentence, sentence), min_size=1, max_size=6)


def request(refs, hyps, **options) -> Request:
    keys = tuple(f"u{i}" for i in range(len(refs)))
    options.setdefault("resamples", 20)
    return Request(keys, tuple(refs), tuple(hyps), **options)


def rescored(name, found) -> float:
    """The score from the lines of utterances.jsonl alone, as the tables compare it."""
    lines = [
        np.concatenate([np.atleast_1d(line[f]) for f in METRICS[name].figures])
        for line in found.utterances
    ]
    return float(rate_of(name)(np.array(lines).sum(0)[:, None])[0])


@settings(max_examples=15)
@given(rows, st.booleans())
def test_bleu_and_chrf_are_sacrebleus(triples, several):
    refs, more, hyps = zip(*triples, strict=True)
    streams = [list(refs), list(more)] if several else [list(refs)]
    given_ = {"more_refs": tuple((m,) for m in more)} if several else {}
    found = resolve("bleu")(request(refs, hyps, **given_))
    bleu = sacrebleu.corpus_bleu(list(hyps), streams)
    chrf = sacrebleu.corpus_chrf(list(hyps), streams)
    assert found.summary["bleu"] == pytest.approx(bleu.score)
    assert found.summary["chrf"] == pytest.approx(chrf.score)
    assert rescored("bleu", found) == pytest.approx(bleu.score)
    assert f"nrefs:{1 + several}|case:mixed|eff:no|tok:13a" in found.terminal


def test_two_systems_as_sacrebleu_compares_them():
    """Interval and one-sided p agree with its own draws up to noise."""
    generator = np.random.default_rng(0)
    refs, base, ours = ([], [], [])
    for _ in range(150):
        words = generator.choice(WORDS, 9)
        refs.append(" ".join(words))
        for hyps, share in ((base, 0.24), (ours, 0.2)):
            wrong = generator.random(9) < share
            hyps.append(" ".join(np.where(wrong, generator.choice(WORDS, 9), words)))
    found = resolve("bleu")(request(refs, ours, others=tuple(base), resamples=2000))
    metric = sacrebleu.BLEU(references=[refs])
    systems = [("base", base), ("ours", ours)]
    test = PairedTest(systems, {"BLEU": metric}, None, test_type="bs", n_samples=2000)
    theirs = test()[1]["BLEU"]
    compared, (low, high) = found.summary["compare"], found.summary["ci95"]
    assert 0.02 < theirs[1].p_value < 0.5
    assert compared["p"] / 2 == pytest.approx(theirs[1].p_value, abs=0.02)
    assert compared["bleu"] == pytest.approx(theirs[0].score)
    assert (high - low) / 2 == pytest.approx(theirs[1].ci, rel=0.1)


def test_bleu_options_and_comparison():
    refs = ["The cat sat on the mat over there ."] * 30
    good = request(refs, refs, others=tuple("a dog sat on the mat" for _ in refs))
    summary = resolve("bleu")(good).summary
    assert summary["bleu"] == pytest.approx(100)
    assert summary["ci95"] == pytest.approx([100, 100])
    assert summary["compare"]["low"] > 0
    assert "better than the other" in resolve("bleu")(good).terminal
    lower = [ref.lower() for ref in refs]
    assert resolve("bleu")(request(refs, lower)).summary["bleu"] < 99
    folded = resolve("bleu")(request(refs, lower, lowercase=True)).summary
    assert folded["bleu"] == pytest.approx(100)
    assert "case:lc" in folded["signature"]
    with pytest.raises(UserError, match="--tokenize nowhere"):
        resolve("bleu")(request(refs, refs, tokenize="nowhere"))


@settings(max_examples=15)
@given(rows.filter(lambda r: all(set(t) - {",", " "} for x in r for t in x)))
def test_rouge_is_the_mean_of_rouge_score(triples):
    refs, more, hyps = zip(*triples, strict=True)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = zip(refs, more, hyps, strict=True)
    expected = [scorer.score_multi([a, b], hyp) for a, b, hyp in pairs]
    found = resolve("rouge")(request(refs, hyps, more_refs=tuple((m,) for m in more)))
    for kind in ("rouge1", "rouge2", "rougeL"):
        mean = 100 * np.mean([row[kind].fmeasure for row in expected])
        assert found.summary[kind] == pytest.approx(mean)
    assert rescored("rouge", found) == pytest.approx(found.summary["rouge1"])


def test_rouge_by_hand_and_stemming():
    # "mats" and "mat" share a stem: 2 of 3 and 2 of 2 words with it, 1 and 1 without.
    stemmed = resolve("rouge")(request(["red mats burn"], ["red mat"])).summary
    assert stemmed["rouge1"] == pytest.approx(100 * 2 * 2 / (3 + 2))
    assert stemmed["rouge2"] == pytest.approx(100 * 2 * 1 / (2 + 1))
    plain = resolve("rouge")(request(["red mats burn"], ["red mat"], stem=False))
    assert plain.summary["rouge1"] == pytest.approx(100 * 2 * 1 / (3 + 2))
    assert "no stemming" in plain.summary["signature"]
    with pytest.raises(UserError, match=r"none of 1 references has a word of a-z or"):
        resolve("rouge")(request(["кошка"], ["кошка"]))


def test_intents_by_hand():
    refs = ["play some jazz", "play it", "stop now please", "stop"]
    hyps = ["play some jazz", "stop it", "halt now", ""]
    found = resolve("intent")(request(refs, hyps, others=tuple(refs)))
    summary = found.summary
    assert summary["accuracy"] == 25
    assert summary["intents"] == 2
    assert summary["unknown_intents"] == 2  # halt, and no intent at all
    # play: 1 hit of 2 wanted, 1 said; stop: none.
    assert summary["macro_f1"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert summary["transcript_wer"] == pytest.approx(100 * 1 / 5)
    assert summary["compare"]["accuracy"] == 100
    assert rescored("intent", found) == 25
    table = found.terminal.split("taken for")[1].splitlines()[2:]
    assert sorted(line.split()[:2] for line in table) == [
        ["play", "stop"],
        ["stop", "(nothing)"],
        ["stop", "halt"],
    ]
    assert "play it" in found.listing and "some jazz" not in found.listing


def test_intents_alone_have_no_transcript():
    summary = resolve("intent")(request(["play", "stop"], ["play", "play"])).summary
    assert (summary["accuracy"], summary["transcript_wer"]) == (50, None)


@pytest.mark.parametrize("name", ["wer", "intent"])
def test_one_reference_alone(name):
    with pytest.raises(UserError, match="one reference"):
        resolve(name)(request(["a b"], ["a b"], more_refs=(("c",),)))

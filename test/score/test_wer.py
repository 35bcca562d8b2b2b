"""Counts by hand and by jiwer, properties of the rates, what is listed and printed."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.errors import UserError
from espnet_mtla.score.listing import LINE, AlignedUnits
from espnet_mtla.score.metric import METRICS, Request, resolve
from espnet_mtla.score.table import aligned, markdown, width
from espnet_mtla.score.wer import align, character_report, word_report

texts = st.lists(st.sampled_from(["ja", "nein", "zwei", "café", "東"]), max_size=8)
spoken = texts.filter(bool).map(" ".join)
heard = texts.map(" ".join)


def request(*pairs: tuple[str, str], **options) -> Request:
    keys = tuple(f"u{i}" for i in range(len(pairs)))
    refs, hyps = zip(*pairs, strict=True)
    return Request(keys, refs, hyps, **options)


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a b c", "a b b c", (0, 0, 1)),
        ("a b c", "", (0, 3, 0)),
        ("a", "b c d", (1, 0, 2)),
        ("a b c d", "x a b d", (0, 1, 1)),
        ("  a \t b ", "a b", (0, 0, 0)),
        ("a A", "a a", (1, 0, 0)),
    ],
)
def test_words_by_hand(ref, hyp, expected):
    (found,) = align(["u"], [ref], [hyp], "words")
    assert tuple(found.count(kind) for kind in "SDI") == expected
    assert found.units == len(ref.split())
    assert found.errors == sum(expected)


def test_summary_by_hand():
    pairs = [("one two three", "one too three four"), ("five", ""), ("six", "six")]
    summary = word_report(request(*pairs)).summary
    low, high = summary.pop("ci95")
    assert 0 <= low < 60 < high
    assert summary == {
        "metric": "wer",
        "empty_refs": 0,
        "utterances": 3,
        "ref_words": 5,
        "sub": 1,
        "del": 1,
        "ins": 1,
        "errors": 3,
        "wer": 60.0,
        "sentence_errors": 2,
    }


def test_characters_count_the_space_between_words():
    report = character_report(request(("ab c", "abc"), ("東京", "東")))
    assert report.summary["ref_words"] == 6
    assert report.summary["errors"] == 2
    assert report.summary["wer"] == pytest.approx(100 / 3)
    assert "␣" in report.terminal


@settings(max_examples=60)
@given(st.lists(st.tuples(spoken, heard), min_size=1, max_size=5))
def test_rates_are_those_of_jiwer(pairs):
    refs, hyps = map(list, zip(*pairs, strict=True))
    words, letters = word_report(request(*pairs)), character_report(request(*pairs))
    assert words.summary["wer"] == pytest.approx(100 * jiwer.wer(refs, hyps))
    assert letters.summary["wer"] == pytest.approx(100 * jiwer.cer(refs, hyps))
    for report in (words, letters):
        total = {k: sum(u[k] for u in report.utterances) for k in ("sub", "del", "ins")}
        assert total == {k: report.summary[k] for k in total}
        assert sum(total.values()) == report.summary["errors"]


@settings(max_examples=60)
@given(spoken)
def test_identical_texts_have_no_errors(text):
    for report in (word_report, character_report):
        assert report(request((text, text))).summary["wer"] == 0


@settings(max_examples=60)
@given(spoken, spoken)
def test_exchanged_texts_exchange_deletions_and_insertions(left, right):
    (there,), (back,) = (
        align(["u"], [ref], [hyp], "words")
        for ref, hyp in ((left, right), (right, left))
    )
    assert there.errors == back.errors
    # Several alignments may be shortest: each has the same surplus of one kind.
    surplus = there.count("D") - there.count("I")
    assert surplus == back.count("I") - back.count("D")
    assert surplus == len(left.split()) - len(right.split())


@settings(max_examples=60)
@given(spoken, heard)
def test_steps_spell_both_texts(ref, hyp):
    (found,) = align(["u"], [ref], [hyp], "words")
    assert [s.ref for s in found.steps if s.ref is not None] == ref.split()
    assert [s.hyp for s in found.steps if s.hyp is not None] == hyp.split()
    assert all((s.ref == s.hyp) == (s.kind == "=") for s in found.steps)


def test_listing_is_aligned_and_worst_first():
    pairs = [("a b", "a c"), ("good", "good"), ("press one now", "press")]
    text = word_report(request(*pairs)).listing
    assert text.index("u2: errors 2, words 3") < text.index("u0: errors 1, words 2")
    assert "u1" not in text
    assert "2 of 3 utterances have errors, worst first" in text
    block = "  ref  press one now\n  hyp  press *** ***\n             D   D\n"
    assert block in text


def test_listing_of_long_and_wide_texts_fits_the_screen():
    ref = " ".join(["東京", "hello"] * 60)
    text = word_report(request((ref, "東 " + ref))).listing
    lines = [line for line in text.splitlines() if line[2:5] in ("ref", "hyp")]
    assert len(lines) > 4
    assert max(map(width, lines)) <= LINE + 8
    for upper, lower in zip(lines[::2], lines[1::2], strict=True):
        assert width(upper) == width(lower)


def test_confusions_are_counted():
    pairs = [("five", "nine"), ("five", "nine"), ("a five", "a nine"), ("ja", "ja ja")]
    terminal = word_report(request(*pairs, confusions=1)).terminal
    assert "3 five -> nine" in terminal
    assert "1 ja" in terminal


def test_comparison_with_itself_and_with_a_worse_system():
    pairs = [(f"w{i} b c d", f"w{i} b c d") for i in range(30)]
    refs = tuple(ref for ref, _ in pairs)
    same = word_report(request(*pairs, others=refs)).summary["compare"]
    same.pop("higher_is_better")
    assert same == {"wer": 0.0, "difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    worse = word_report(request(*pairs, others=("b c d",) * 30))
    assert worse.summary["compare"]["difference"] == -25
    assert worse.summary["compare"]["p"] < 0.01
    assert "WER 0.00 against 25.00: -25.00" in worse.terminal
    assert "better than the other" in worse.terminal


def test_every_metric_of_the_registry_reports():
    for name in METRICS:
        assert resolve(name)(request(("a b", "a"))).summary["metric"] == name
    with pytest.raises(UserError, match=r"no metric 'bleu2'; there are wer, cer"):
        resolve("bleu2")


def test_tables_are_as_wide_as_on_screen():
    rows = [["東京", "1"], ["a", "22"]]
    assert aligned(["town", "n"], rows) == "town   n\n----  --\n東京   1\na     22"
    lines = markdown(["town", "n"], rows).splitlines()
    assert lines[1] == "| ---- | --: |"
    assert len(set(map(width, lines))) == 1


def test_step_shows_what_changed():
    assert str(AlignedUnits("S", "a", " ")) == "a -> ␣"
    assert str(AlignedUnits("D", "a", None)) == "a"

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.search import BrokenScores, DecodeOptions, Symbols, beam_search
from espnet_mtla.search.beam import CHECK_EVERY
from test.support.plain_models import BLANK, SOS_EOS, TableScorer, plain_search, rescore

SYMBOLS = Symbols(sos=SOS_EOS, eos=SOS_EOS, blank=BLANK)
BEAM_2 = DecodeOptions(beam_size=2, nbest=2)


def limits(least, most):
    return torch.tensor(least), torch.tensor(most)


def search(scorer, least, most, options):
    return beam_search([(scorer, 1.0)], limits(least, most), SYMBOLS, options)


def as_tuples(nbest):
    return [(tuple(h.tokens), h.score, h.hit_length_limit) for h in nbest]


@st.composite
def problems(draw):
    most = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    least = [draw(st.integers(0, limit)) for limit in most]
    beam = draw(st.integers(1, 6))
    options = DecodeOptions(
        beam_size=beam,
        nbest=draw(st.integers(1, beam)),
        length_bonus=draw(st.sampled_from([0.0, 0.7, 3.0, -1.0])),
        length_norm=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    return most, least, options, draw(st.integers(3, 12)), draw(st.integers(0, 10**6))


@given(problems(), st.sampled_from([0.3, 2.0, 6.0]))
@settings(max_examples=150)
def test_equals_the_plain_search(problem, sharp):
    most, least, options, vocab, seed = problem
    utterances = range(len(most))
    scorer = TableScorer(utterances, options.beam_size, vocab, seed, sharp)
    expected = [
        plain_search(scorer.plain(b), least[b], most[b], options) for b in utterances
    ]
    found = search(scorer, least, most, options)
    assert [as_tuples(nbest) for nbest in found] == expected


@given(problems(), st.sampled_from([0.3, 2.0, 6.0]))
@settings(max_examples=150)
def test_a_first_word_is_fixed_as_in_the_plain_search(problem, sharp):
    most, least, options, vocab, seed = problem
    starts = [token > 1 and token % 3 == 0 for token in range(vocab)]
    symbols = replace(SYMBOLS, word_starts=torch.tensor(starts))
    scorer = TableScorer(range(len(most)), options.beam_size, vocab, seed, sharp)
    expected = [
        plain_search(scorer.plain(b), least[b], most[b], options, starts)
        for b in range(len(most))
    ]
    if not all(expected):
        return  # too short for the smallest length, and no word may follow
    found = beam_search([(scorer, 1.0)], limits(least, most), symbols, options)
    assert [as_tuples(nbest) for nbest in found] == expected


def test_a_first_word_is_the_most_probable_one_though_a_text_is_not():
    """Two intents, 2 (0.6) and 3 (0.4); what follows 2 is hard to guess."""
    rows = {1: [0, 0, 0.6, 0.4, 0, 0, 0], 2: [0, 0, 0, 0, 0.35, 0.33, 0.32]}
    rows |= {3: [0, 0, 0, 0, 1, 0, 0]} | {
        last: [0, 1, 0, 0, 0, 0, 0] for last in (4, 5)
    }
    rows[6] = rows[5]
    options = DecodeOptions(beam_size=4, nbest=3)
    table = torch.tensor([rows[max(last, 1)] for last in range(7)]).log()
    [joint] = search(Chain(table), [0], [3], options)
    assert joint[0].tokens == [3, 4]
    words = replace(SYMBOLS, word_starts=torch.ones(7, dtype=torch.bool))
    [settled] = beam_search([(Chain(table), 1.0)], limits([0], [3]), words, options)
    assert [h.tokens for h in settled] == [[2, 4], [2, 5], [2, 6]]


class Chain:
    """Log-probabilities that depend on the last token alone."""

    def __init__(self, table):
        self.table = table

    def score(self, tokens):
        return self.table[tokens].clone()

    def reorder(self, rows):
        """Nothing is kept."""


@given(problems())
@settings(max_examples=60)
def test_an_utterance_alone_gives_the_same_as_in_a_batch(problem):
    most, least, options, vocab, seed = problem
    beam = options.beam_size
    scorer = TableScorer(range(len(most)), beam, vocab, seed)
    together = search(scorer, least, most, options)
    for b in range(len(most)):
        single = TableScorer([b], beam, vocab, seed)
        single.table = TableScorer(range(len(most)), beam, vocab, seed).table[[b]]
        assert search(single, [least[b]], [most[b]], options) == [together[b]]


@given(problems(), st.integers(2, 9))
@settings(max_examples=60)
def test_checking_less_often_for_done_utterances_changes_nothing(problem, every):
    """Rows that are done, and utterances that leave late, have no influence."""
    most, least, options, vocab, seed = problem
    found = []
    for steps in (1, every):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(CHECK_EVERY, "cpu", steps)
            scorer = TableScorer(range(len(most)), options.beam_size, vocab, seed)
            found.append(search(scorer, least, most, options))
    assert found[0] == found[1]


@given(problems())
@settings(max_examples=60)
def test_scores_equal_a_teacher_forced_rescoring(problem):
    most, least, options, vocab, seed = problem
    scorer = TableScorer(range(len(most)), options.beam_size, vocab, seed)
    for b, nbest in enumerate(search(scorer, least, most, options)):
        for hypothesis in nbest:
            fresh = TableScorer(range(len(most)), 1, vocab, seed)
            fresh.table = fresh.table[[b]]
            fresh.hash = fresh.hash[[b]]
            expected = rescore(fresh, hypothesis.tokens, options.length_bonus)
            assert hypothesis.score == pytest.approx(expected, rel=1e-5, abs=1e-5)
            assert least[b] <= len(hypothesis.tokens) <= most[b]
            assert BLANK not in hypothesis.tokens and SOS_EOS not in hypothesis.tokens


@pytest.mark.parametrize("seed", range(20))
def test_beam_1_is_the_greedy_argmax(seed):
    options = DecodeOptions(beam_size=1)
    scorer = TableScorer(range(3), 1, 8, seed)
    plain = [scorer.plain(b) for b in range(3)]
    found = search(scorer, [0] * 3, [12] * 3, options)
    for log_probs, [hypothesis] in zip(plain, found, strict=True):
        tokens = []
        while len(tokens) < 12:
            row = log_probs(tokens).copy()
            row[BLANK] = -torch.inf
            if row.argmax() == SOS_EOS:
                break
            tokens.append(int(row.argmax()))
        assert hypothesis.tokens == tokens
        assert hypothesis.hit_length_limit == (len(tokens) == 12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least, most", [(0, 3), (2, 3), (3, 3)])
def test_a_wide_beam_finds_what_enumeration_finds(seed, least, most):
    vocab = 5  # blank, <sos/eos> and three tokens
    scorer = TableScorer([0], 128, vocab, seed, sharp=1.0)
    log_probs = scorer.plain(0)
    every = []
    for length in range(least, most + 1):
        for tokens in product(range(2, vocab), repeat=length):
            parts = [log_probs(tokens[:i])[t] for i, t in enumerate((*tokens, SOS_EOS))]
            every.append((tokens, float(sum(parts))))
    every.sort(key=lambda entry: -entry[1])
    options = DecodeOptions(beam_size=128, nbest=128)
    [found] = search(scorer, [least], [most], options)
    assert [tuple(h.tokens) for h in found] == [tokens for tokens, _ in every]
    scores = torch.tensor([score for _, score in every])
    torch.testing.assert_close(torch.tensor([h.score for h in found]), scores)


class Fixed:
    """The same log-probabilities for every row and step."""

    def __init__(self, row):
        self.row, self.kept = torch.tensor(row), None

    def score(self, tokens):
        return self.row.expand(len(tokens), -1)

    def reorder(self, rows):
        pass

    def select(self, utterances):
        self.kept = utterances.tolist()


def test_all_end_together():
    scorer = Fixed([-9.0, -0.1, -2.0, -3.0])
    found = search(scorer, [0, 0], [5, 5], DecodeOptions(beam_size=1))
    assert [as_tuples(nbest) for nbest in found] == [
        [((), found[0][0].score, False)]
    ] * 2
    assert found[0][0].score == pytest.approx(-0.1)
    assert scorer.kept is None, "nobody is left to select"


@pytest.mark.parametrize(("nbest", "bonus", "steps"), [(1, 0, 1), (2, 0, 2), (1, 1, 3)])
def test_a_search_ends_when_nothing_better_can_come(nbest, bonus, steps):
    """<eos> alone scores -0.1, behind a token -2.1; two tokens have -4 already.

    With a bonus of 1: <eos> alone 0.9, and three tokens -3, which two more and <eos>
    bring to no more than 0.
    """
    scorer = Fixed([-9.0, -0.1, -2.0, -3.0])
    asked = []
    scorer.score = lambda tokens: asked.append(1) or scorer.row.expand(len(tokens), -1)
    options = DecodeOptions(beam_size=8, nbest=nbest, length_bonus=float(bonus))
    found = search(scorer, [0], [5], options)
    assert len(found[0]) == nbest and len(asked) == steps


def test_minimum_length_holds_eos_back():
    scorer = Fixed([-9.0, -0.1, -2.0, -3.0])
    found = search(scorer, [3, 0], [5, 5], DecodeOptions(beam_size=1))
    assert [h.tokens for [h] in found] == [[2, 2, 2], []]
    assert scorer.kept == [0], "the second left at once"
    assert found[0][0].score == pytest.approx(-6.1)


def test_length_bonus_makes_the_longest_best():
    scorer = Fixed([-9.0, -0.5, -2.0, -3.0])
    options = DecodeOptions(beam_size=2, length_bonus=2.5)
    [[hypothesis]] = search(scorer, [0], [6], options)
    assert len(hypothesis.tokens) > 0
    plain = search(scorer, [0], [6], DecodeOptions(beam_size=2))
    assert plain[0][0].tokens == []
    assert hypothesis.score == pytest.approx(
        -0.5 + 2.5 + len(hypothesis.tokens) * (2.5 - 2.0)
    )


def test_the_limit_scores_eos_and_flags_it():
    scorer = Fixed([-9.0, -7.0, -0.1, -3.0])
    [[hypothesis]] = search(scorer, [0], [4], DecodeOptions(beam_size=1))
    assert hypothesis.tokens == [2] * 4 and hypothesis.hit_length_limit
    assert hypothesis.score == pytest.approx(-7.4)


def test_more_beams_than_tokens():
    """Two tokens and ten beams: empty beams are never returned."""
    scorer = TableScorer([0], 10, 4)
    options = DecodeOptions(beam_size=10, nbest=10)
    expected = plain_search(scorer.plain(0), 0, 2, options)
    [found] = search(scorer, [0], [2], options)
    assert as_tuples(found) == expected and len(found) == 7  # 1 + 2 + 4 sequences


def test_weights_join_scorers():
    one, two = TableScorer([0], 3, 6, seed=1), TableScorer([0], 3, 6, seed=2)
    plain_one, plain_two = one.plain(0), two.plain(0)
    options = DecodeOptions(beam_size=3, nbest=3)
    pairs = [(one, 0.75), (two, 0.25)]
    [found] = beam_search(pairs, limits([0], [7]), SYMBOLS, options)

    def joint(history):
        return 0.75 * plain_one(history) + 0.25 * plain_two(history)

    expected = plain_search(joint, 0, 7, options)
    assert [h.tokens for h in found] == [list(tokens) for tokens, _, _ in expected]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_broken_scores_name_the_utterance(value):
    class Broken(TableScorer):
        def score(self, tokens):
            found = super().score(tokens).clone()
            found[2 * 3 : 3 * 3] = value
            return found

    count = 6  # the broken one alone is too few for the others to be moved
    with pytest.raises(BrokenScores) as caught:
        scorer = Broken(range(count), 3, 6)
        search(scorer, [3] * count, [3] * count, DecodeOptions(beam_size=3))
    assert caught.value.utterances == [2] and caught.value.nan == (value != value)


def test_nan_of_a_finished_utterance_has_no_effect():
    class LateNan(TableScorer):
        step = 0

        def score(self, tokens):
            found = super().score(tokens).clone()
            self.step += 1
            if self.step > 3:
                found[: self.beam] = float("nan")
            return found

    clean = search(TableScorer(range(5), 2, 6), [2] + [9] * 4, [2] + [9] * 4, BEAM_2)
    late = search(LateNan(range(5), 2, 6), [2] + [9] * 4, [2] + [9] * 4, BEAM_2)
    assert late == clean

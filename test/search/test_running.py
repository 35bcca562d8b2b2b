"""Utterances that join and leave a running search get the results they get alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention.decoding.layout import CacheOptions
from espnet_mtla.attention.decoding.rows import put_rows
from espnet_mtla.search import (
    BrokenScores,
    CTCPrefixScorer,
    DecodeOptions,
    DecoderScorer,
    Symbols,
    beam_search,
)
from espnet_mtla.search.hotwords import Boundaries, Hotwords, OwnHotwordScorer
from espnet_mtla.search.running import RunningSearch
from test.search.test_beam import BEAM_2, SYMBOLS, as_tuples, limits, problems
from test.search.test_decoder_scorer import ATTENTIONS, VOCAB, WIDTH, make
from test.support.plain_models import TableScorer, plain_search


def run(arrivals, begin, dropped=()):
    """Search with utterances that join before the steps of ``arrivals``.

    Args:
        arrivals: step of each utterance.
        begin: returns the search of one utterance, by its number.
        dropped: pairs of step and utterance that is ended before it, if it runs.
    Returns:
        Results by utterance; how often the batch was compacted; its largest size.
    """
    running, results, step, compacted, largest = None, {}, 0, 0, 0
    waiting = sorted(range(len(arrivals)), key=lambda b: arrivals[b])
    while waiting or running is not None:
        while waiting and arrivals[waiting[0]] <= step:
            new = begin(waiting.pop(0))
            new.advance()
            if running is None:
                running = new
            else:
                running.join(new)
        if running is not None:
            gone = [b for at, b in {*dropped} if at == step and b in running.live]
            running.drop(gone)
            results.update(running.collect())
            compacted += running.compact()
            largest = max(largest, len(running.keys))
            if not running.live:
                running = None
            else:
                running.advance()
        step += 1
    return results, compacted, largest


@given(problems(), st.data())
@settings(max_examples=100)
def test_equals_the_plain_search(problem, data):
    most, least, options, vocab, seed = problem
    count = len(most)
    arrivals = data.draw(
        st.lists(st.integers(0, 12), min_size=count, max_size=count), label="arrivals"
    )
    dropped = data.draw(
        st.lists(st.tuples(st.integers(0, 15), st.integers(0, count - 1)), max_size=2)
    )
    table = TableScorer(range(count), options.beam_size, vocab, seed)

    def begin(b):
        scorer = TableScorer([b], options.beam_size, vocab, seed)
        scorer.table = table.table[[b]].clone()
        own = limits([least[b]], [most[b]])
        return RunningSearch([b], [(scorer, 1.0)], own, SYMBOLS, options)

    results, _, _ = run(arrivals, begin, dropped)
    for b in range(count):
        expected = plain_search(table.plain(b), least[b], most[b], options)
        if b in results:
            assert as_tuples(results[b]) == expected
        else:
            assert b in {utterance for _, utterance in dropped}


def test_a_place_is_used_again_and_the_batch_shrinks():
    """Twelve utterances, two at a time, never need more than a few places."""

    def begin(b):
        scorer = TableScorer([b], 2, 6, seed=b)
        return RunningSearch([b], [(scorer, 1.0)], limits([4], [4]), SYMBOLS, BEAM_2)

    results, compacted, largest = run([3 * b for b in range(12)], begin)
    assert len(results) == 12 and largest <= 3 and compacted > 0


def test_an_utterance_without_a_possible_text_fails_alone():
    def begin(b):
        scorer = TableScorer([b], 2, 6, seed=b)
        if b == 1:
            scorer.table[:] = float("nan")
        return RunningSearch([b], [(scorer, 1.0)], limits([1], [5]), SYMBOLS, BEAM_2)

    results, _, _ = run([0, 1, 1], begin)
    assert isinstance(results[1], BrokenScores) and results[1].nan
    for b in (0, 2):
        scorer = TableScorer([b], 2, 6, seed=b)
        assert as_tuples(results[b]) == plain_search(scorer.plain(0), 1, 5, BEAM_2)


# With a decoder, CTC and hotwords ---------------------------------------------------

FRAMES = [9, 3, 27, 12, 5, 1, 14, 8]
ARRIVALS = [0, 0, 2, 3, 3, 9, 30, 31]
DECODER_SYMBOLS = Symbols(sos=VOCAB - 1, eos=VOCAB - 1)


def inputs(b, ctc_frames):
    """Return prompt and CTC's log-probabilities of an utterance."""
    generator = torch.Generator().manual_seed(b)
    prompt = torch.randn(1, FRAMES[b], WIDTH, generator=generator)
    logits = 2 * torch.randn(1, ctc_frames[b], VOCAB, generator=generator)
    return prompt, torch.tensor([FRAMES[b]]), logits.log_softmax(-1)


def hotwords_of(b):
    """Return phrases for every third utterance."""
    if b % 3:
        return None
    anywhere = [True] * VOCAB
    phrases = [[2 + b % 4, 5], [7]]
    return Hotwords(phrases, 3.0, Boundaries(anywhere, anywhere), VOCAB - 1)


def scorers_of(decoder, b, options, cache, share_prompt):
    """Return scorers, candidate scorers and limits of an utterance."""
    beam = options.beam_size
    ctc_frames = [2 * frames + 3 for frames in FRAMES]
    prompt, lengths, log_probs = inputs(b, ctc_frames)
    most = FRAMES[b] + b % 3 + 1
    decoder_scorer = DecoderScorer(
        decoder, prompt, lengths, most, beam, share_prompt, options=cache
    )
    own = OwnHotwordScorer([hotwords_of(b)], beam)
    scorers = [(decoder_scorer, 1 - options.ctc_weight), (own, 1.0)]
    candidates = []
    if options.ctc_weight:
        frames = torch.tensor([ctc_frames[b]])
        ctc = CTCPrefixScorer(log_probs, frames, beam, VOCAB - 1)
        candidates = [(ctc, options.ctc_weight)]
    gain = 0.0 if hotwords_of(b) is None else hotwords_of(b).largest_gain
    return scorers, candidates, limits([min(2, most)], [most]), gain


GREEDY, BEAM_4 = DecodeOptions(beam_size=1), DecodeOptions(beam_size=4, nbest=4)
WITH_CTC = replace(BEAM_4, ctc_weight=0.4)
QUANTISED = CacheOptions(dtype="int8")


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize(
    ("options", "cache", "share_prompt"),
    [
        pytest.param(GREEDY, CacheOptions(), True, id="greedy"),
        pytest.param(BEAM_4, CacheOptions(), True, id="beam"),
        pytest.param(BEAM_4, CacheOptions(), False, id="copied-prompt"),
        pytest.param(BEAM_4, QUANTISED, True, id="int8"),
        pytest.param(BEAM_4, CacheOptions(prompt="heads"), True, id="heads"),
        pytest.param(WITH_CTC, CacheOptions(), True, id="ctc"),
    ],
)
@torch.inference_mode()
def test_a_decoder_gives_what_it_gives_alone(name, options, cache, share_prompt):
    decoder = make(name, "fixed")

    def begin(b):
        scorers, candidates, own, gain = scorers_of(
            decoder, b, options, cache, share_prompt
        )
        return RunningSearch(
            [b], scorers, own, DECODER_SYMBOLS, options, candidates, gain
        )

    results, _, largest = run(ARRIVALS, begin)
    assert largest >= 4
    lengths = set()
    for b in range(len(FRAMES)):
        scorers, candidates, own, gain = scorers_of(
            decoder, b, options, cache, share_prompt
        )
        [alone] = beam_search(scorers, own, DECODER_SYMBOLS, options, candidates, gain)
        assert [h.tokens for h in results[b]] == [h.tokens for h in alone]
        scores = [h.score for h in alone]
        assert [h.score for h in results[b]] == pytest.approx(
            scores, rel=1e-4, abs=1e-5
        )
        lengths.add(len(alone[0].tokens))
    assert len(lengths) > 2, "texts that tell nothing"


@torch.inference_mode()
def test_a_cache_stays_as_small_as_its_utterances():
    """After a long utterance the batch goes back to the sizes of the short ones."""
    decoder = make("mtla_s2", "fixed")

    def begin(b, frames, most):
        prompt = torch.randn(1, frames, WIDTH)
        scorer = DecoderScorer(decoder, prompt, torch.tensor([frames]), most, beam=2)
        return RunningSearch(
            [b], [(scorer, 1.0)], limits([most], [most]), DECODER_SYMBOLS, BEAM_2
        )

    running = begin(0, 200, 4)
    running.advance()
    scorer = running.scorers[0][0]
    short = begin(1, 4, 8)
    alone = short.scorers[0][0].state.nbytes
    short.advance()
    running.join(short)
    largest = scorer.state.nbytes
    for _ in range(5):
        running.advance()
    assert [key for key, _ in running.collect()] == [0]
    assert running.compact()
    assert scorer.state.nbytes == alone < largest / 10
    assert scorer.state.timeline.filled <= scorer.state.timeline.slots


def test_a_free_place_never_overflows():
    """It goes on being stepped for as long as others come and go beside it."""
    decoder = make("mha", "fixed")

    def begin(b):
        scorer = DecoderScorer(
            decoder, torch.randn(1, 4, WIDTH), torch.tensor([4]), 6, beam=1
        )
        return RunningSearch(
            [b], [(scorer, 1.0)], limits([6], [6]), DECODER_SYMBOLS, GREEDY
        )

    with torch.inference_mode():
        running = begin(0)
        running.advance()
        for b in range(1, 8):
            new = begin(b)
            new.advance()
            running.join(new)
        running.drop([0])  # one of eight: not enough to compact
        key = 8
        for _ in range(40):
            running.advance()
            for _ in running.collect():
                new = begin(key)
                new.advance()
                running.join(new)
                key += 1
            timeline = running.scorers[0][0].state.timeline
            placed = timeline.num_tokens // timeline.stride
            slots = placed - timeline.first_suffix_chunk
            assert int(slots.max()) <= timeline.slots
            assert timeline.appended <= timeline.capacity
        assert key > 30


def test_rows_are_put_in_place_or_appended():
    old = torch.ones(3, 2)
    same = put_rows(old, torch.full((1, 2), 5.0), torch.tensor([1]))
    assert same is old and old.tolist() == [[1, 1], [5, 5], [1, 1]]
    larger = put_rows(old, torch.full((2, 3), 7.0), torch.tensor([0, 3]), fill=-1)
    assert larger.tolist() == [[7, 7, 7], [5, 5, -1], [1, 1, -1], [7, 7, 7]]

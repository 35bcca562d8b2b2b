from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.search import (
    CTCPrefixScorer,
    DecodeOptions,
    Symbols,
    beam_search,
    best_path,
)
from test.support.espnet_nets import espnet_nets
from test.support.plain_models import BLANK, SOS_EOS, TableScorer, plain_search


def random_log_probs(*shape, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(shape, generator=generator)).log_softmax(-1)


def collapse(path):
    """Labels of an alignment: repeats, then blanks taken out."""
    changed = [x for i, x in enumerate(path) if i == 0 or path[i - 1] != x]
    return tuple(x for x in changed if x != BLANK)


def alignments(log_probs):
    """Each alignment's labels and log-probability, ``(T, V)`` by brute force."""
    frames, vocab = log_probs.shape
    rows = log_probs.double().tolist()
    for path in product(range(vocab), repeat=frames):
        yield collapse(path), sum(rows[t][x] for t, x in enumerate(path))


def brute_force(table, prefix):
    """log P(sequence starts with prefix) and log P(sequence is prefix)."""
    starts = [p for labels, p in table if labels[: len(prefix)] == prefix]
    whole = [p for labels, p in table if labels == prefix]
    return tuple(
        torch.tensor(found or [-torch.inf], dtype=torch.float64).logsumexp(0).item()
        for found in (starts, whole)
    )


# Label 1 is <sos/eos> and never in an alignment's target here: labels are 2 and 3.
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(
    "prefix", [(), (2,), (3,), (2, 2), (2, 3), (2, 3, 2), (2, 2, 2)]
)
def test_prefix_scores_equal_the_sum_over_all_alignments(frames, prefix):
    log_probs = random_log_probs(frames, 4, seed=frames)
    table = list(alignments(log_probs))
    padded = torch.full((1, frames + 3, 4), float("nan"))
    padded[0, :frames] = log_probs
    scorer = CTCPrefixScorer(padded, torch.tensor([frames]), beam=1, eos=SOS_EOS)
    candidates = torch.tensor([[2, 3, SOS_EOS]])
    for token in (SOS_EOS, *prefix):
        found = scorer.score(torch.tensor([token]), candidates)[0]
    before, whole = brute_force(table, prefix)
    if before == -np.inf:
        assert found.tolist() == [-np.inf] * 3
        return
    expected = [brute_force(table, (*prefix, c))[0] - before for c in (2, 3)]
    expected.append(whole - before)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    # What may follow is a distribution, with the impossible <sos/eos> label left out.
    unused = brute_force(table, (*prefix, SOS_EOS))[0] - before
    total = found.double().exp().sum() + np.exp(unused)
    assert total == pytest.approx(1.0, abs=1e-6)


@st.composite
def batches(draw):
    lens = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    return lens, draw(st.integers(1, 4)), draw(st.integers(0, 10**6))


@given(batches())
@settings(max_examples=40)
def test_rows_move_with_their_prefixes(batch):
    """After random extensions, reorders and selections a row is as if alone."""
    lens, beam, seed = batch
    generator = torch.Generator().manual_seed(seed)
    log_probs = random_log_probs(len(lens), max(lens), 6, seed=seed)
    lens = torch.tensor(lens)
    scorer = CTCPrefixScorer(log_probs, lens, beam, eos=SOS_EOS)
    places = torch.arange(len(lens))
    candidates = torch.arange(1, 6).expand(len(lens) * beam, -1)
    tokens = torch.full((len(lens) * beam,), SOS_EOS)
    prefixes = torch.empty(len(tokens), 0, dtype=torch.long)
    for _ in range(5):
        found = scorer.score(tokens, candidates[: len(tokens)])
        for row, prefix in enumerate(prefixes):
            place = places[row // beam]
            alone = CTCPrefixScorer(
                log_probs[place, : lens[place]][None], lens[place][None], 1, SOS_EOS
            )
            for token in (SOS_EOS, *prefix.tolist()):
                expected = alone.score(torch.tensor([token]), candidates[:1])
            torch.testing.assert_close(found[row], expected[0], atol=1e-5, rtol=1e-5)
        if len(places) > 1 and torch.rand((), generator=generator) < 0.4:
            stay = torch.randperm(len(places), generator=generator)[:-1]
            scorer.select(stay)
            prefixes = prefixes.view(len(places), beam, -1)[stay].flatten(0, 1)
            places = places[stay]
        pick = torch.randint(beam, (len(places), beam), generator=generator)
        rows = (torch.arange(len(places))[:, None] * beam + pick).flatten()
        scorer.reorder(rows)
        tokens = torch.randint(2, 6, (len(rows),), generator=generator)
        prefixes = torch.cat((prefixes[rows], tokens[:, None]), 1)


def test_long_audio_stays_exact():
    """2,000 frames span tens of thousands of nats: beyond what float32 sums hold."""
    frames = 2000
    log_probs = random_log_probs(1, frames, 5, sharp=8.0)
    scorer = CTCPrefixScorer(log_probs, torch.tensor([frames]), 1, SOS_EOS)
    candidates = torch.tensor([[2, 3, 4, SOS_EOS]])
    rows = log_probs[0].double().numpy()
    blank_end = np.cumsum(rows[:, BLANK])
    label_end, last = np.full(frames, -np.inf), None
    for token in (SOS_EOS, 2, 2, 3, 4, 4, 2):
        found = scorer.score(torch.tensor([token]), candidates)
        if token != SOS_EOS:
            blank_end, label_end = by_recursion(rows, blank_end, label_end, token, last)
            last = token
    both = np.logaddexp(blank_end, label_end)
    chosen = np.array([prefix_score(rows, blank_end, both, c, last) for c in (2, 3, 4)])
    expected = torch.tensor(np.append(chosen, both[-1]))
    difference = found[0].double() - expected
    assert (difference - difference[0]).abs().max() < 1e-3  # one constant: psi(prefix)


def by_recursion(rows, blank_end, label_end, token, last):
    new_blank, new_label = np.full((2, len(rows)), -np.inf)
    new_label[0] = rows[0, token] if last is None else -np.inf
    for t in range(1, len(rows)):
        start = blank_end[t - 1]
        if token != last:
            start = np.logaddexp(start, label_end[t - 1])
        new_label[t] = np.logaddexp(new_label[t - 1], start) + rows[t, token]
        new_blank[t] = np.logaddexp(new_blank[t - 1], new_label[t - 1]) + rows[t, BLANK]
    return new_blank, new_label


def prefix_score(rows, blank_end, both, token, last):
    start = blank_end if token == last else both
    return np.logaddexp.reduce(start[:-1] + rows[1:, token])


@pytest.mark.parametrize("repeat", [False, True])
def test_equals_espnets_scorer(repeat):
    pytest.importorskip("espnet2", reason="espnet's scorer")
    ctc = espnet_nets("ctc_prefix_score")
    frames, vocab = 30, 7
    log_probs = random_log_probs(frames, vocab, seed=3)
    theirs = ctc.CTCPrefixScore(log_probs.numpy(), BLANK, SOS_EOS, np)
    state, before = theirs.initial_state(), 0.0
    ours = CTCPrefixScorer(log_probs[None], torch.tensor([frames]), 1, SOS_EOS)
    candidates = np.arange(1, vocab)
    history = [SOS_EOS, 4, 4 if repeat else 2, 5, 5, 3]
    for step, token in enumerate(history):
        wanted, states = theirs(history[: step + 1], candidates, state)
        found = ours.score(torch.tensor([token]), torch.tensor(candidates)[None])[0]
        expected = torch.tensor(wanted - before, dtype=torch.float32)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        if step + 1 < len(history):
            place = list(candidates).index(history[step + 1])
            state, before = states[place], wanted[place]


@pytest.mark.parametrize("seed", range(8))
def test_joint_search_equals_the_plain_one(seed):
    """With all tokens as candidates, against a plain search with both scores."""
    weight, beam, vocab, lens = 0.3, 4, 6, [9, 4, 7]
    log_probs = random_log_probs(3, 9, vocab, seed=seed + 50)
    scorer = TableScorer(range(3), beam, vocab, seed)
    options = DecodeOptions(beam_size=beam, nbest=2, ctc_weight=weight)
    prefix = CTCPrefixScorer(log_probs, torch.tensor(lens), beam, SOS_EOS)
    plain = [scorer.plain(b) for b in range(3)]
    found = beam_search(
        [(scorer, 1 - weight)],
        (torch.zeros(3, dtype=torch.long), torch.tensor([4, 4, 4])),
        Symbols(SOS_EOS, SOS_EOS, BLANK),
        options,
        [(prefix, weight)],
    )
    for b in range(3):

        def joint(history, b=b):
            alone = CTCPrefixScorer(
                log_probs[b : b + 1], torch.tensor([lens[b]]), 1, SOS_EOS
            )
            for token in (SOS_EOS, *history):
                row = alone.score(torch.tensor([token]), torch.arange(vocab)[None])
            return (1 - weight) * plain[b](history) + weight * row[0].numpy()

        expected = plain_search(joint, 0, 4, options)
        assert [tuple(h.tokens) for h in found[b]] == [entry[0] for entry in expected]
        scores = [entry[1] for entry in expected]
        assert [h.score for h in found[b]] == pytest.approx(scores, abs=1e-4)


def test_best_path():
    path = [2, 2, BLANK, 2, 3, 3, BLANK, BLANK]
    log_probs = torch.full((2, 10, 4), -5.0)
    log_probs[0, range(8), path] = -0.5
    log_probs[1, :3, BLANK] = -0.25
    log_probs[0, 8:, 3] = 0.0  # padding
    found = best_path(log_probs, torch.tensor([8, 3]))
    assert found == [([2, 2, 3], -4.0), ([], -0.75)]

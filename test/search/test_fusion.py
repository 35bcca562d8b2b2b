"""Searches with language models and hotwords, against searches that recompute all."""

import numpy as np
import pytest
import torch

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.search import (
    CTCPrefixScorer,
    DecodeOptions,
    DecoderScorer,
    Symbols,
    beam_search,
)
from espnet_mtla.search.backoff import BackoffScorer
from espnet_mtla.search.hotwords import Boundaries, Hotwords, HotwordScorer
from espnet_mtla.search.ngram import ngram_automaton, read_arpa
from test.search.test_ctc import random_log_probs
from test.support.arpa import plain_score, random_arpa
from test.support.plain_models import BLANK, SOS_EOS, TableScorer, plain_search

TOKENS = ["<blank>", "<sos/eos>", "a", "b", "c", "d", "<unk>", "x"]
WORDS = ["<unk>", "</s>", "a", "b", "c", "d", "<unk>", "<unk>"]
VOCAB, BEAM, WIDTH = len(TOKENS), 4, 16
LM_WEIGHT, NGRAM_WEIGHT, CTC_WEIGHT = 0.6, 0.4, 0.3
SYMBOLS = Symbols(SOS_EOS, SOS_EOS, BLANK)


@pytest.fixture(scope="module")
def ngrams(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_text(random_arpa(3, seed=5))
    return read_arpa(path)


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(1)
    latent = {"kv_lora_rank": 8, "qk_rope_head_dim": 2, "qk_nope_head_dim": 4}
    config = DecoderConfig(
        VOCAB,
        WIDTH,
        num_layers=2,
        num_heads=2,
        ffn_dim=24,
        attention="mtla",
        attention_conf={**latent, "v_head_dim": 4},
    )
    decoder = DecoderOnlyTransformer(config).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(5)
    return decoder


def hotwords(bonus):
    starts = [token not in (3, 5) for token in range(VOCAB)]
    boundaries = Boundaries(starts, [True] * VOCAB)
    return Hotwords([[2, 3], [4], [4, 5, 2], [2, 3, 6]], bonus, boundaries, SOS_EOS)


def empty_prompt(batch):
    return torch.zeros(batch, 0, WIDTH), torch.zeros(batch, dtype=torch.long)


def search(utterances, most, seed, options, ngrams, lm, bonus, with_ctc):
    batch, ctc_weight = len(utterances), CTC_WEIGHT if with_ctc else 0
    phrases = hotwords(bonus)
    automaton = ngram_automaton(ngrams, TOKENS, SOS_EOS)
    prompt, lengths = empty_prompt(batch)
    scorers = [
        (TableScorer(utterances, BEAM, VOCAB, seed), 1 - ctc_weight),
        (DecoderScorer(lm, prompt, lengths, max(most), BEAM), LM_WEIGHT),
        (BackoffScorer(automaton, batch, BEAM), NGRAM_WEIGHT),
        (HotwordScorer(phrases, batch, BEAM), 1.0),
    ]
    frames = [9, 6, 8]
    log_probs = random_log_probs(3, 9, VOCAB, seed=seed + 50)[utterances]
    lens = torch.tensor([frames[b] for b in utterances])
    ctc = [(CTCPrefixScorer(log_probs, lens, BEAM, SOS_EOS), CTC_WEIGHT)]
    limits = torch.zeros(batch, dtype=torch.long), torch.tensor(most)
    return beam_search(
        scorers,
        limits,
        SYMBOLS,
        options,
        ctc if with_ctc else [],
        phrases.largest_gain,
    )


def plain_joint(utterance, seed, ngrams, lm, bonus, with_ctc):
    """The sum of all scores as a function of the tokens, computed from the first on."""
    table = TableScorer([0, 1, 2], BEAM, VOCAB, seed).plain(utterance)
    log_probs = random_log_probs(3, 9, VOCAB, seed=seed + 50)[[utterance]]
    frames = torch.tensor([[9, 6, 8][utterance]])

    @torch.inference_mode()
    def joint(history):
        ctc_weight = CTC_WEIGHT if with_ctc else 0
        total = (1 - ctc_weight) * table(history)
        fed = [SOS_EOS, *history]
        logits = lm(*empty_prompt(1), torch.tensor([fed]))[0, -1]
        total = total + LM_WEIGHT * logits.log_softmax(-1).numpy()
        words = ["<s>", *(WORDS[token] for token in history)]
        probs = [plain_score(ngrams, words, word) for word in WORDS]
        total = total + NGRAM_WEIGHT * np.float32(probs)
        phrases = HotwordScorer(hotwords(bonus), 1, 1)
        ctc = CTCPrefixScorer(log_probs, frames, 1, SOS_EOS)
        for token in fed:
            gains = phrases.score(torch.tensor([token]))[0]
            row = ctc.score(torch.tensor([token]), torch.arange(VOCAB)[None])[0]
        total = total + gains.numpy()
        return total + ctc_weight * row.numpy() if with_ctc else total

    return joint


@pytest.mark.parametrize("with_ctc", [False, True])
@pytest.mark.parametrize("bonus", [0.5, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_search_and_alone_as_in_a_batch(
    seed, bonus, with_ctc, ngrams, lm
):
    """Utterances end at different steps; all tokens are candidates of CTC."""
    most = [6, 3, 5]
    options = DecodeOptions(beam_size=BEAM, nbest=2, ctc_candidates=9.0)
    with torch.inference_mode():
        arguments = (seed, options, ngrams, lm, bonus, with_ctc)
        found = search([0, 1, 2], most, *arguments)
        alone = [search([b], [most[b]], *arguments)[0] for b in range(3)]
    for b in range(3):
        joint = plain_joint(b, seed, ngrams, lm, bonus, with_ctc)
        expected = plain_search(joint, 0, most[b], options)
        for nbest in (found[b], alone[b]):
            assert [tuple(h.tokens) for h in nbest] == [row[0] for row in expected]
            scores = [row[1] for row in expected]
            assert [h.score for h in nbest] == pytest.approx(scores, abs=1e-3)


class Steps:
    """The same scores for every row, another row a step."""

    def __init__(self, *rows):
        self.rows = iter(rows)

    def score(self, tokens):
        return torch.tensor(next(self.rows)).expand(len(tokens), -1)

    def reorder(self, rows):
        """There is no state."""


def test_a_search_waits_for_a_bonus_that_can_still_come():
    """Ending at once scores -0.1. Token 2 has -6 and half of the bonus of 9, so -1.5;
    with token 3 and <eos> it has -6 - 0.25 - 0.25 and the whole bonus, so 2.5."""
    phrases = Hotwords([[2, 3]], 9.0, Boundaries([True] * 4, [True] * 4), SOS_EOS)
    options = DecodeOptions(beam_size=2)
    limits = torch.tensor([0]), torch.tensor([2])

    def best(**gain):
        first, second = [-9.0, -0.1, -6.0, -9.0], [-9.0, -9.0, -9.0, -0.25]
        steps = Steps(first, second, [-9.0, -0.25, -9.0, -9.0])
        scorers = [(steps, 1.0), (HotwordScorer(phrases, 1, 2), 1.0)]
        return beam_search(scorers, limits, SYMBOLS, options, **gain)[0][0]

    found = best(token_gain=phrases.largest_gain)
    assert found.tokens == [2, 3] and found.score == pytest.approx(2.5)
    assert best().tokens == [], "this search needs no gain: too easy a case"

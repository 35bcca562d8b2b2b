"""Small scorers and the same search written plainly: Python loops, no cache."""

from __future__ import annotations

import numpy as np
import torch

from espnet_mtla.attention.decoding.rows import put_rows, rows_of

SOS_EOS, BLANK = 1, 0


class TableScorer:
    """Random log-probabilities that depend on the utterance and on the whole history.

    A row's state is a rolling hash of its tokens; a wrong ``reorder`` or ``select``
    shows at once in the scores.
    """

    def __init__(self, utterances, beam, vocab, seed=0, sharp=2.0, states=1999):
        generator = torch.Generator().manual_seed(seed)
        count = max(utterances) + 1
        logits = sharp * torch.randn(count, states, vocab, generator=generator)
        self.table = logits.log_softmax(-1)[list(utterances)]
        self.beam, self.states = beam, states
        self.hash = torch.zeros(len(utterances) * beam, dtype=torch.long)
        self.moves = 0

    def score(self, tokens):
        self.hash = (self.hash * 31 + tokens + 7) % self.states
        row = torch.arange(len(self.hash)) // self.beam
        return self.table[row, self.hash]

    def reorder(self, rows):
        assert torch.equal(rows // self.beam, torch.arange(len(rows)) // self.beam)
        self.hash = self.hash[rows]
        self.moves += 1

    def select(self, utterances):
        self.table = self.table[utterances]
        self.hash = self.hash.view(-1, self.beam)[utterances].flatten()

    def join(self, other, utterances):
        rows = rows_of(utterances, self.beam)
        self.table = put_rows(self.table, other.table, utterances)
        self.hash = put_rows(self.hash, other.hash, rows)

    def rewind(self, utterances):
        self.hash[rows_of(utterances, self.beam)] = 0

    def plain(self, utterance):
        """The same as a function of the history, without state."""
        table, states = self.table[utterance].numpy(), self.states

        def log_probs(history):
            value = 0
            for token in (SOS_EOS, *history):
                value = (value * 31 + token + 7) % states
            return table[value]

        return log_probs


def plain_search(log_probs, least, most, options, word_starts=None):
    """One utterance, hypotheses as tuples: list of (tokens, score, limited)."""
    settling = word_starts is not None
    beam, bonus = options.beam_size, np.float32(options.length_bonus)
    live, pool = [((), np.float32(0))], []

    def rank(entry):
        return entry[1] / np.float32((len(entry[0]) + 1) ** options.length_norm)

    for step in range(most + 1):
        candidates, allowed = [], None
        if settling:
            row = log_probs(live[0][0])
            best = max(range(2, len(row)), key=lambda token: row[token])
            ended = word_starts[best] or row[SOS_EOS] >= row[best]
            settling = step < most and not (step > 0 and ended)
            words = {t for t in range(len(row)) if word_starts[t]} | {SOS_EOS}
            allowed = {best} if settling else words
        for tokens, score in live:
            row = log_probs(tokens)
            for token in range(len(row)):
                hidden = token == BLANK or bool(allowed and token not in allowed)
                hidden |= token == SOS_EOS and step < least
                hidden |= token != SOS_EOS and step >= most
                if not hidden:
                    value = np.float32(np.float32(row[token] + bonus) + score)
                    candidates.append((value, tokens, token))
        candidates.sort(key=lambda item: -item[0])
        for value, tokens, token in candidates[:beam]:
            if token == SOS_EOS:
                pool.append((tokens, value, step == most))
        pool = sorted(pool, key=lambda entry: -rank(entry))[:beam]
        going = [item for item in candidates if item[2] != SOS_EOS][:beam]
        live = [((*tokens, token), value) for value, tokens, token in going]
        if len(pool) == beam or not live:
            break
    return pool[: options.nbest]


def rescore(scorer, tokens, length_bonus=0.0, sos_eos=SOS_EOS):
    """Sum over a hypothesis and its <eos>, fed to a fresh scorer of one row."""
    total, last = 0.0, sos_eos
    for token in (*tokens, sos_eos):
        row = scorer.score(torch.tensor([last]))[0]
        total, last = total + float(row[token]) + length_bonus, token
    return total

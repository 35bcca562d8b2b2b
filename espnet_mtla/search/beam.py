"""Beam search over ``B`` utterances with ``K`` hypotheses each, all on the device.

The search looks for sequences of tokens that end in <eos>. A sequence's score is the
sum of the weighted scorers' values and of ``length_bonus`` a token, <eos> included. The
sum is float32 whatever the scorers compute in.

One step, for every utterance at once:

1. A candidate is a live hypothesis and a next token. The best 2K are chosen. At most K
   of them are <eos>, one a hypothesis, so at least K continue.
2. An <eos> among the first K goes to the pool of finished hypotheses, which keeps the K
   best. An <eos> that ranks lower is dropped: otherwise bad short endings would fill
   the pool.
3. The first K that are not <eos> are the new live hypotheses.

An utterance is done when its pool is full, at its largest length, or when no live
hypothesis can still enter the ``nbest`` best. The last holds because log-probabilities
only lower a score; what a bonus may add is an argument (``token_gain``). At the largest
length <eos> is the only candidate: it is scored like any other and flagged
(``hit_length_limit``). Below the smallest length <eos> is no candidate. Blank never is.
So each score equals that of the same tokens put through the scorers once more, and with
K = 1 the search is the greedy argmax.

Candidate scorers (CTC) score the best ``ctc_candidates * K`` tokens of each hypothesis
by the other scorers, and <eos>. Without them, K tokens and <eos> a hypothesis contain
the exact best 2K.

With ``Symbols.word_starts`` (which tokens begin a word) the first word is fixed before
the search: it grows by its most probable token until that token begins a new word or is
<eos>. Hypotheses differ after it. Intents are found this way: the most probable text
may have a less probable intent, only because its other words are easier to predict.

Utterances do not affect each other, and a done utterance does not change, so a result
does not depend on the rest of the batch. Done utterances leave once they are a quarter
of the batch: moving the caches of the rest costs as much memory traffic as one or two
steps. On a GPU the number of done utterances is read at every eighth step only, since
reading waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.precision import NEG_INF
from espnet_mtla.search.interface import CandidateScorer, Scorer
from espnet_mtla.search.options import DecodeOptions

LEAVE_AT = 0.25  # share of done utterances at which they leave the batch
CHECK_EVERY = {"cuda": 8}
"""Check for done utterances every N steps: each check synchronises the device."""


@dataclass(frozen=True)
class Symbols:
    """Token ids with a meaning for the search."""

    sos: int
    eos: int
    blank: int = 0
    """Never part of a hypothesis; ``eos`` if the vocabulary has no blank."""
    word_starts: Tensor | None = None
    """``(V,)``: which ids begin a word, to fix the first word before the search."""


@dataclass(frozen=True)
class Hypothesis:
    """A finished hypothesis; ``tokens`` without <sos> and <eos>."""

    tokens: list[int]
    score: float
    hit_length_limit: bool


class BrokenScores(ValueError):
    """A scorer returned NaN, or left an utterance without any possible token."""

    def __init__(self, utterances: list[int], nan: bool) -> None:
        what = "NaN" if nan else "all -inf"
        super().__init__(f"scores are {what} in utterances {utterances}")
        self.utterances, self.nan = utterances, nan


def beam_search(
    scorers: Sequence[tuple[Scorer, float]],
    limits: tuple[Tensor, Tensor],
    symbols: Symbols,
    options: DecodeOptions,
    candidate_scorers: Sequence[tuple[CandidateScorer, float]] = (),
    token_gain: float = 0.0,
) -> list[list[Hypothesis]]:
    """Search as the module's docstring describes.

    Args:
        scorers: scorers of the whole vocabulary with their weights, at least one.
        limits: fewest and most tokens of each utterance, ``(B,)``, on the scorers'
            device (:func:`espnet_mtla.search.length_limits`).
        candidate_scorers: scorers of few candidates with their weights.
        token_gain: the most that the scorers add to a score with one token; 0 for
            log-probabilities.

    Returns:
        For each utterance up to ``nbest`` hypotheses, best first.

    Raises:
        BrokenScores: Names the utterances, by their place in the batch.
    """
    gain = max(options.length_bonus + token_gain, 0.0)
    search = _Search(scorers, limits, symbols, options, candidate_scorers, gain)
    step = 0
    while search.advance(step):
        step += 1
    return search.results()


class _Search:
    """The live hypotheses of the utterances that are not done, and all history.

    Live state has a row a hypothesis and shrinks when utterances leave. The history has
    the token and the parent of each live hypothesis at each step, at the utterance's
    original place in the batch (``self.places``). A finished hypothesis is a score and
    the end of a path through the history, so token sequences are never moved.
    """

    def __init__(
        self,
        scorers: Sequence[tuple[Scorer, float]],
        limits: tuple[Tensor, Tensor],
        symbols: Symbols,
        options: DecodeOptions,
        candidate_scorers: Sequence[tuple[CandidateScorer, float]],
        largest_gain: float,
    ) -> None:
        self.scorers, self.candidate_scorers = scorers, candidate_scorers
        self.symbols, self.options = symbols, options
        self.largest_gain = largest_gain  # of one token
        self.least, self.most = limits
        self.largest = self.most  # as at the beginning, of all utterances
        self.device = self.most.device
        batch, beam = len(self.most), options.beam_size
        self.places = torch.arange(batch, device=self.device)
        self.done = self._full((batch,), False)
        self.scores = self._full((batch, beam), NEG_INF)
        self.scores[:, 0] = 0.0  # a single hypothesis until the first tokens differ
        self.last = self._full((batch * beam,), symbols.sos)
        steps = int(self.most.max()) + 1
        self.last_step = steps - 1  # all are done after it
        self.check_every = CHECK_EVERY.get(self.device.type, 1)
        self.history_tokens = self._full((steps, batch, beam), symbols.eos)
        self.history_parents = self._full((steps, batch, beam), 0)
        self.pool_scores = self._full((batch, beam), NEG_INF)
        self.pool_ends = self._full((batch, beam), 0)  # tokens * K + last live place
        self.broken = self._full((batch,), False)
        self.in_first_word = self._full((batch,), symbols.word_starts is not None)

    def _full(self, shape: tuple[int, ...], value: float | int | bool) -> Tensor:
        return torch.full(shape, value, device=self.device)

    def advance(self, step: int) -> bool:
        """Extend every live hypothesis by one token; return False when all are done."""
        beam = self.options.beam_size
        tokens, values = self._candidates(step)  # (N, C + 1) each, <eos> last
        values = self._within_limits(values, step) + self.options.length_bonus
        values = values.view(len(self.places), beam, -1) + self.scores.unsqueeze(2)
        best, index = values.flatten(1).topk(2 * beam)  # (B, 2K), best first
        # topk ranks NaN above all numbers, so checking the first is enough.
        self.broken[self.places] |= best[:, 0].isnan() & ~self.done

        columns = tokens.size(1)
        parents, ends = index // columns, index % columns == columns - 1
        dropped = ~ends[:, :beam] | self.done.unsqueeze(1)
        finished = best[:, :beam].masked_fill(dropped, NEG_INF)
        self._finish(finished, step * beam + parents[:, :beam])

        alive = ends.byte().argsort(dim=1, stable=True)[:, :beam]
        index, parents = index.gather(1, alive), parents.gather(1, alive)
        tokens = tokens.view(len(index), -1).gather(1, index)
        self.history_tokens[step, self.places] = tokens
        self.history_parents[step, self.places] = parents
        self.scores, self.last = best.gather(1, alive), tokens.flatten()
        return self._continue(parents, step)

    def _candidates(self, step: int) -> tuple[Tensor, Tensor]:
        """Return each row's candidates and their scores, ``(N, C + 1)``; <eos> last."""
        first, *others = (weight * x.score(self.last) for x, weight in self.scorers)
        total = sum(others, first)
        eos, blank = self.symbols.eos, self.symbols.blank
        eos_score = total[:, eos : eos + 1].clone()
        total[:, [blank, eos]] = NEG_INF
        if self.symbols.word_starts is not None:
            self._restrict_to_first_word(
                total, eos_score, self.symbols.word_starts, step
            )
        count = self.options.beam_size
        if self.candidate_scorers:
            count = math.ceil(count * self.options.ctc_candidates)
        values, tokens = total.topk(min(count, total.size(1) - 2))
        values = torch.cat((values, eos_score), 1)
        tokens = F.pad(tokens, (0, 1), value=eos)
        for scorer, weight in self.candidate_scorers:
            values = values + weight * scorer.score(self.last, tokens)
        return tokens, values

    def _restrict_to_first_word(
        self, total: Tensor, eos_score: Tensor, word_starts: Tensor, step: int
    ) -> None:
        """Set scores of tokens that may not follow the first word to -inf, in place.

        Within the first word only its most probable token may follow; directly behind
        it, only tokens that begin a word.

        Args:
            total: ``(N, V)`` scores; eos_score: ``(N, 1)``, that of <eos>.
            word_starts: ``(V,)`` flags.
        """
        beam = self.options.beam_size
        best, token = total[::beam].max(1)  # one hypothesis is alive until then
        complete = step >= self.most
        if step > 0:
            complete |= word_starts[token] | (eos_score[::beam, 0] >= best)
        behind, self.in_first_word = (
            self.in_first_word & complete,
            self.in_first_word & ~complete,
        )
        others = torch.ones_like(total[::beam], dtype=torch.bool)
        others.scatter_(1, token.unsqueeze(1), False)
        hidden = others & self.in_first_word.unsqueeze(1)
        hidden |= ~word_starts & behind.unsqueeze(1)
        total.masked_fill_(hidden.repeat_interleave(beam, 0), NEG_INF)
        early = self.in_first_word.repeat_interleave(beam).unsqueeze(1)
        eos_score.masked_fill_(early, NEG_INF)

    def _within_limits(self, values: Tensor, step: int) -> Tensor:
        """Forbid <eos> below the smallest length, and other tokens at the largest."""
        too_short = (step < self.least).repeat_interleave(self.options.beam_size)
        at_end = (step >= self.most).repeat_interleave(self.options.beam_size)
        forbidden = at_end.unsqueeze(1).repeat(1, values.size(1))
        forbidden[:, -1] = too_short
        return values.masked_fill(forbidden, NEG_INF)

    def _finish(self, scores: Tensor, ends: Tensor) -> None:
        """Merge newly finished hypotheses ``(B, K)`` into the pool, keep the K best."""
        scores = torch.cat((self.pool_scores[self.places], scores), 1)
        ends = torch.cat((self.pool_ends[self.places], ends), 1)
        pick = self._ranked_by(scores, ends).topk(self.options.beam_size).indices
        self.pool_scores[self.places] = scores.gather(1, pick)
        self.pool_ends[self.places] = ends.gather(1, pick)

    def _ranked_by(self, scores: Tensor, ends: Tensor) -> Tensor:
        """Return the values by which finished hypotheses are ranked, as ``scores``."""
        if self.options.length_norm == 0:
            return scores
        length = ends // self.options.beam_size + 1  # generated tokens and <eos>
        return scores / length**self.options.length_norm

    def _continue(self, parents: Tensor, step: int) -> bool:
        """Prepare the next step: reorder rows, remove done utterances.

        Returns:
            False when no utterance is left.
        """
        full = self.pool_scores[self.places, -1] > NEG_INF
        # Scores are sorted: if the first is -inf, all are. NaN counts as dead, too.
        dead = ~(self.scores[:, 0] > NEG_INF)
        self.done |= full | dead | (step >= self.most) | self._cannot_improve(step)
        batch, beam = parents.shape
        checks = (step + 1) % self.check_every == 0
        active = self._count_active() if checks else batch
        if active == 0 or step == self.last_step:
            return False
        if beam > 1:
            first = torch.arange(0, batch * beam, beam, device=self.device)
            self._reorder((first.unsqueeze(1) + parents).flatten())
        if batch - active >= LEAVE_AT * batch:
            self._select((~self.done).nonzero().squeeze(1))
        return True

    def _cannot_improve(self, step: int) -> Tensor:
        """Return flags ``(B,)``: no live hypothesis can enter the ``nbest`` best."""
        if self.options.length_norm != 0:
            return torch.zeros_like(self.done)  # longer texts may rank higher
        tokens_left = self.most - step
        worst = self.pool_scores[self.places, self.options.nbest - 1]
        return worst >= self.scores[:, 0] + self.largest_gain * tokens_left

    def _count_active(self) -> int:
        """Return how many utterances are not done; waits for the device."""
        return len(self.done) - int(self.done.sum())

    def _reorder(self, rows: Tensor) -> None:
        for scorer, _ in (*self.scorers, *self.candidate_scorers):
            scorer.reorder(rows)

    def _select(self, stay: Tensor) -> None:
        beam = self.options.beam_size
        self.last = self.last.view(-1, beam)[stay].flatten()
        self.scores, self.places = self.scores[stay], self.places[stay]
        self.least, self.most = self.least[stay], self.most[stay]
        self.done, self.in_first_word = self.done[stay], self.in_first_word[stay]
        for scorer, _ in (*self.scorers, *self.candidate_scorers):
            scorer.select(stay)

    def results(self) -> list[list[Hypothesis]]:
        """Follow the best finished paths back through the history.

        Raises:
            BrokenScores: an utterance had NaN, or no finished hypothesis.
        """
        stuck = self.pool_scores[:, 0] == NEG_INF
        for broken, nan in ((self.broken, True), (stuck, False)):
            if broken.any():
                raise BrokenScores(broken.nonzero().flatten().tolist(), nan)
        scores = self.pool_scores[:, : self.options.nbest]
        ends = self.pool_ends[:, : self.options.nbest]
        length, row = ends // self.options.beam_size, ends % self.options.beam_size
        paths = []
        for step in reversed(range(int(length.max()))):
            paths.append(self.history_tokens[step].gather(1, row))
            parent = self.history_parents[step].gather(1, row)
            row = torch.where(step < length, parent, row)
        none = length.new_empty((*length.shape, 0))
        tokens = torch.stack(paths[::-1], 2) if paths else none
        limited = length == self.largest.unsqueeze(1)
        return _unpack(tokens, length, scores, limited)


def _unpack(
    tokens: Tensor, length: Tensor, scores: Tensor, limited: Tensor
) -> list[list[Hypothesis]]:
    """Convert ``(B, n, U)`` tokens and ``(B, n)`` of the others to hypotheses."""
    counts, values, flags = length.tolist(), scores.tolist(), limited.tolist()
    return [
        [
            Hypothesis(row[:count], score, flag)
            for row, count, score, flag in zip(*utterance, strict=True)
            if score > NEG_INF  # else the place in the pool is empty
        ]
        for utterance in zip(tokens.tolist(), counts, values, flags, strict=True)
    ]

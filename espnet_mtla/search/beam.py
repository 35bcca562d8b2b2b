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
from espnet_mtla.search.history import BrokenScores as BrokenScores
from espnet_mtla.search.history import History
from espnet_mtla.search.history import Hypothesis as Hypothesis
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
    search = Search(scorers, limits, symbols, options, candidate_scorers, gain)
    while search.advance():
        pass
    return search.results()


class Search:
    """The live hypotheses of the utterances that are not done, and all history.

    Live state has a row a hypothesis and shrinks when utterances leave. The history is
    at the utterance's original place in the batch (``self.places``).

    Args:
        scorers: see :func:`beam_search`, also for the next four.
        limits: fewest and most tokens.
        symbols: token ids with a meaning.
        options: beam, weights and limits.
        candidate_scorers: scorers of few candidates.
        largest_gain: the most that a score can grow with one token.
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
        self.least, self.most = limits
        self.device = self.most.device
        batch, beam = len(self.most), options.beam_size
        self.largest_gain = self._full((batch,), largest_gain)  # of one token
        self.places = self.all_places = torch.arange(batch, device=self.device)
        self.done = self._full((batch,), False)
        self.scores = self._full((batch, beam), NEG_INF)
        self.scores[:, 0] = 0.0  # a single hypothesis until the first tokens differ
        self.last = self._full((batch * beam,), symbols.sos)
        self.step = 0  # steps of this object; ``steps`` are those of each utterance
        self.steps = torch.zeros_like(self.most)
        self.last_step = int(self.most.max())  # all are done after it
        self.check_every = CHECK_EVERY.get(self.device.type, 1)
        self.history = History(self.most, symbols.eos, options)
        self.in_first_word = self._full((batch,), symbols.word_starts is not None)

    def _full(self, shape: tuple[int, ...], value: float | int | bool) -> Tensor:
        return torch.full(shape, value, device=self.device)

    def advance(self) -> bool:
        """Extend every live hypothesis by one token; return False when all are done."""
        beam = self.options.beam_size
        tokens, values = self._candidates()  # (N, C + 1) each, <eos> last
        values = self._within_limits(values) + self.options.length_bonus
        values = values.view(len(self.places), beam, -1) + self.scores.unsqueeze(2)
        best, index = values.flatten(1).topk(2 * beam)  # (B, 2K), best first
        # topk ranks NaN above all numbers, so checking the first is enough.
        self.history.broken[self.places] |= best[:, 0].isnan() & ~self.done

        columns = tokens.size(1)
        parents, ends = index // columns, index % columns == columns - 1
        dropped = ~ends[:, :beam] | self.done.unsqueeze(1)
        finished = best[:, :beam].masked_fill(dropped, NEG_INF)
        ends_at = self.steps.unsqueeze(1) * beam + parents[:, :beam]
        self.history.finish(self.places, finished, ends_at)

        alive = ends.byte().argsort(dim=1, stable=True)[:, :beam]
        index, parents = index.gather(1, alive), parents.gather(1, alive)
        tokens = tokens.view(len(index), -1).gather(1, index)
        self.history.record(self.places, self.steps, tokens, parents)
        self.scores, self.last = best.gather(1, alive), tokens.flatten()
        self._mark_done()
        self.step += 1
        self.steps += ~self.done
        return self._continue(parents)

    def _candidates(self) -> tuple[Tensor, Tensor]:
        """Return each row's candidates and their scores, ``(N, C + 1)``; <eos> last."""
        first, *others = (weight * x.score(self.last) for x, weight in self.scorers)
        total = sum(others, first)
        eos, blank = self.symbols.eos, self.symbols.blank
        eos_score = total[:, eos : eos + 1].clone()
        total[:, [blank, eos]] = NEG_INF
        if self.symbols.word_starts is not None:
            self._restrict_to_first_word(total, eos_score, self.symbols.word_starts)
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
        self, total: Tensor, eos_score: Tensor, word_starts: Tensor
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
        complete = self.steps >= self.most
        if self.step > 0:
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

    def _within_limits(self, values: Tensor) -> Tensor:
        """Forbid <eos> below the smallest length, and other tokens at the largest."""
        too_short = (self.steps < self.least).repeat_interleave(self.options.beam_size)
        at_end = (self.steps >= self.most).repeat_interleave(self.options.beam_size)
        forbidden = at_end.unsqueeze(1).repeat(1, values.size(1))
        forbidden[:, -1] = too_short
        return values.masked_fill(forbidden, NEG_INF)

    def _mark_done(self) -> None:
        """Find the utterances that are done after this step."""
        full = self.history.scores[self.places, -1] > NEG_INF
        # Scores are sorted: if the first is -inf, all are. NaN counts as dead, too.
        dead = ~(self.scores[:, 0] > NEG_INF)
        self.done |= full | dead | (self.steps >= self.most) | self._cannot_improve()

    def _continue(self, parents: Tensor) -> bool:
        """Prepare the next step: reorder rows, remove done utterances.

        Returns:
            False when no utterance is left.
        """
        batch = len(parents)
        checks = self.step % self.check_every == 0
        active = self._count_active() if checks else batch
        if active == 0 or self.step > self.last_step:
            return False
        self._reorder(parents)
        if batch - active >= LEAVE_AT * batch:
            self._select((~self.done).nonzero().squeeze(1))
        return True

    def _cannot_improve(self) -> Tensor:
        """Return flags ``(B,)``: no live hypothesis can enter the ``nbest`` best."""
        if self.options.length_norm != 0:
            return torch.zeros_like(self.done)  # longer texts may rank higher
        tokens_left = self.most - self.steps
        worst = self.history.scores[self.places, self.options.nbest - 1]
        return worst >= self.scores[:, 0] + self.largest_gain * tokens_left

    def _count_active(self) -> int:
        """Return how many utterances are not done; waits for the device."""
        return len(self.done) - int(self.done.sum())

    def _reorder(self, parents: Tensor) -> None:
        """Let each hypothesis continue its parent ``(B, K)``."""
        batch, beam = parents.shape
        if beam == 1:
            return
        first = torch.arange(0, batch * beam, beam, device=self.device)
        rows = (first.unsqueeze(1) + parents).flatten()
        for scorer, _ in (*self.scorers, *self.candidate_scorers):
            scorer.reorder(rows)

    def _select(self, stay: Tensor) -> None:
        beam = self.options.beam_size
        self.last = self.last.view(-1, beam)[stay].flatten()
        self.scores, self.places = self.scores[stay], self.places[stay]
        self.least, self.most = self.least[stay], self.most[stay]
        self.done, self.in_first_word = self.done[stay], self.in_first_word[stay]
        self.steps, self.largest_gain = self.steps[stay], self.largest_gain[stay]
        for scorer, _ in (*self.scorers, *self.candidate_scorers):
            scorer.select(stay)

    def results(self) -> list[list[Hypothesis]]:
        """Return the best finished hypotheses of each utterance.

        Raises:
            BrokenScores: an utterance had NaN, or no finished hypothesis.
        """
        return self.history.results(self.all_places)

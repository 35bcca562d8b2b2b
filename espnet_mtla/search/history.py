"""The past of a beam search: all tokens as paths, and the finished hypotheses.

The live hypotheses of a step are entries ``(token, parent)``, where the parent is the
place of the hypothesis that it continues in the step before. A finished hypothesis is a
score and the end of a path, so token sequences are never moved.

Letters: ``B`` utterances, ``K`` hypotheses each, ``T`` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.rows import put_rows
from espnet_mtla.attention.precision import NEG_INF
from espnet_mtla.search.options import DecodeOptions


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


class History:
    """Paths and finished hypotheses of the utterances of a search.

    Attributes:
        most: largest number of tokens of each utterance, ``(B,)``.
        tokens: token of each live hypothesis after each step, ``(B, T, K)``.
        parents: its parent in the step before, ``(B, T, K)``.
        scores: the K best finished hypotheses, ``(B, K)``; -inf: fewer are finished.
        ends: number of tokens times K, plus the parent of <eos>, ``(B, K)``.
        broken: whether a score was NaN, ``(B,)``.
    """

    def __init__(self, most: Tensor, eos: int, options: DecodeOptions) -> None:
        self.options, self.most = options, most
        batch, beam = len(most), options.beam_size
        paths = (batch, int(most.max()) + 1, beam)
        self.tokens = most.new_full(paths, eos)
        self.parents = most.new_zeros(paths)
        self.scores = torch.full((batch, beam), NEG_INF, device=most.device)
        self.ends = most.new_zeros(batch, beam)
        self.broken = torch.zeros(batch, dtype=torch.bool, device=most.device)

    def record(
        self, places: Tensor, steps: Tensor, tokens: Tensor, parents: Tensor
    ) -> None:
        """Store the live hypotheses after a step.

        Args:
            places: utterances, ``(n,)``.
            steps: number of the step in each of them, ``(n,)``.
            tokens: ``(n, K)``.
            parents: ``(n, K)``.
        """
        self.tokens[places, steps] = tokens
        self.parents[places, steps] = parents

    def finish(self, places: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Merge newly finished hypotheses ``(n, K)`` into the pools, keep the K best.

        Args:
            places: utterances, ``(n,)``.
            scores: -inf where a hypothesis is not finished.
            ends: as the attribute.
        """
        scores = torch.cat((self.scores[places], scores), 1)
        ends = torch.cat((self.ends[places], ends), 1)
        pick = self._ranked_by(scores, ends).topk(self.options.beam_size).indices
        self.scores[places] = scores.gather(1, pick)
        self.ends[places] = ends.gather(1, pick)

    def _ranked_by(self, scores: Tensor, ends: Tensor) -> Tensor:
        """Return the values by which finished hypotheses are ranked, as ``scores``."""
        if self.options.length_norm == 0:
            return scores
        length = ends // self.options.beam_size + 1  # generated tokens and <eos>
        return scores / length**self.options.length_norm

    def results(self, places: Tensor) -> list[list[Hypothesis]]:
        """Follow the best finished paths of utterances ``(n,)`` back.

        Raises:
            BrokenScores: an utterance had NaN, or no finished hypothesis.
        """
        stuck = self.scores[places, 0] == NEG_INF
        for broken, nan in ((self.broken[places], True), (stuck, False)):
            if broken.any():
                raise BrokenScores(places[broken].tolist(), nan)
        scores = self.scores[places, : self.options.nbest]
        ends = self.ends[places, : self.options.nbest]
        length, row = ends // self.options.beam_size, ends % self.options.beam_size
        tokens, parents = self.tokens[places], self.parents[places]
        paths = []
        for step in reversed(range(int(length.max()))):
            paths.append(tokens[:, step].gather(1, row))
            parent = parents[:, step].gather(1, row)
            row = torch.where(step < length, parent, row)
        none = length.new_empty((*length.shape, 0))
        best = torch.stack(paths[::-1], 2) if paths else none
        limited = length == self.most[places].unsqueeze(1)
        return _unpack(best, length, scores, limited)

    def agreed(self, place: int, steps: int, live: Sequence[int]) -> list[int]:
        """Return the first tokens that all hypotheses of an utterance have in common.

        Whatever the result will be, it begins with them.

        Args:
            place: of the utterance.
            steps: steps that it has taken.
            live: places of its live hypotheses.
        """
        beam = self.options.beam_size
        tokens = self.tokens[place, :steps].tolist()
        parents = self.parents[place, :steps].tolist()
        ends = [(steps, row) for row in live]
        finished = self.scores[place] > NEG_INF
        ends += [divmod(end, beam) for end in self.ends[place, finished].tolist()]
        paths: list[list[int]] = []
        for length, row in ends:
            path: list[int] = []
            for step in reversed(range(length)):
                path.append(tokens[step][row])
                row = parents[step][row]
            paths.append(path[::-1])
        # What the least and the greatest path begin with is common to all of them.
        least, greatest = min(paths, default=[]), max(paths, default=[])
        pairs = zip(least, greatest, strict=False)
        return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def join(self, other: History, places: Tensor) -> None:
        """Put the utterances of ``other`` at ``places``, over others or behind all."""
        self.most = put_rows(self.most, other.most, places)
        self.tokens = put_rows(self.tokens, other.tokens, places)
        self.parents = put_rows(self.parents, other.parents, places)
        self.scores = put_rows(self.scores, other.scores, places)
        self.ends = put_rows(self.ends, other.ends, places)
        self.broken = put_rows(self.broken, other.broken, places)

    def select(self, places: Tensor) -> None:
        """Keep the utterances at these places ``(B',)``, in this order."""
        self.most = self.most[places]
        steps = int(self.most.max()) + 1
        self.tokens = self.tokens[:, :steps][places]
        self.parents = self.parents[:, :steps][places]
        self.scores, self.ends = self.scores[places], self.ends[places]
        self.broken = self.broken[places]


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

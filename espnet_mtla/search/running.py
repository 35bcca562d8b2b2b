"""Beam search whose utterances come and go between steps ("continuous batching").

A batch of :func:`~espnet_mtla.search.beam.beam_search` begins and ends as a whole: an
utterance that arrives late waits for all of it, and its last steps have few rows. Here
every utterance counts its own steps, so that it can begin and end at any step of the
others:

1. A new utterance is prefilled, and takes its first step, in a :class:`RunningSearch`
   of its own.
2. :meth:`RunningSearch.join` writes its rows over those of an utterance that is done.
   That moves no other row. Only if no place is free is the state enlarged.
3. After each :meth:`RunningSearch.advance`, :meth:`RunningSearch.collect` returns the
   results of utterances that are done. Their places are free from then on.
4. :meth:`RunningSearch.compact` removes free places once they are a quarter of all.

Rows of free places go on being computed with results that nobody reads. Their caches
would overflow some time, so they are set back to their prompts whenever a place becomes
free. From one such moment to the next no utterance ends, so fewer steps pass than any
cache has room for.

Utterances do not affect each other, so an utterance gets the result that it would get
alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.rows import put_rows, rows_of
from espnet_mtla.attention.precision import NEG_INF
from espnet_mtla.search.beam import LEAVE_AT, Search, Symbols
from espnet_mtla.search.history import BrokenScores, Hypothesis
from espnet_mtla.search.interface import JoinableCandidateScorer, JoinableScorer
from espnet_mtla.search.options import DecodeOptions

Outcome = list[Hypothesis] | BrokenScores
"""Hypotheses of an utterance, best first, or why it has none."""


class RunningSearch(Search):
    """The running hypotheses of all utterances; see the module's docstring.

    Args:
        keys: names of the utterances, by which results are returned.
        scorers: see :func:`~espnet_mtla.search.beam.beam_search`, also for the others.
        limits: fewest and most tokens of each utterance.
        symbols: token ids with a meaning.
        options: of all utterances that will ever join.
        candidate_scorers: scorers of few candidates with their weights.
        token_gain: the most that the scorers add to a score with one token.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        scorers: Sequence[tuple[JoinableScorer, float]],
        limits: tuple[Tensor, Tensor],
        symbols: Symbols,
        options: DecodeOptions,
        candidate_scorers: Sequence[tuple[JoinableCandidateScorer, float]] = (),
        token_gain: float = 0.0,
    ) -> None:
        gain = max(options.length_bonus + token_gain, 0.0)
        super().__init__(scorers, limits, symbols, options, candidate_scorers, gain)
        self.check_every = 1  # a row that is done must not outgrow its cache
        self.keys: list[Hashable | None] = [*keys]
        self.joinable = [scorer for scorer, _ in (*scorers, *candidate_scorers)]

    @property
    def live(self) -> list[Hashable]:
        """Keys of the utterances whose result is not collected yet."""
        return [key for key in self.keys if key is not None]

    @property
    def free(self) -> list[int]:
        """Places whose utterances have left."""
        return [place for place, key in enumerate(self.keys) if key is None]

    def join(self, other: RunningSearch) -> None:
        """Take in the utterances of another search, which must not be used any more.

        Both have taken a step, and have the same scorers, symbols and options.
        """
        places = self._places_for(len(other.keys))
        self.keys += [None] * (max(places) + 1 - len(self.keys))
        for place, key in zip(places, other.keys, strict=True):
            self.keys[place] = key
        index = torch.tensor(places, device=self.device)
        for mine, theirs in zip(self.joinable, other.joinable, strict=True):
            mine.join(theirs, index)
        for name in ("least", "most", "done", "steps", "in_first_word", "scores"):
            merged = put_rows(getattr(self, name), getattr(other, name), index)
            setattr(self, name, merged)
        self.largest_gain = put_rows(self.largest_gain, other.largest_gain, index)
        rows = rows_of(index, self.options.beam_size)
        self.last = put_rows(self.last, other.last, rows)
        self.history.join(other.history, index)
        self.places = torch.arange(len(self.done), device=self.device)

    def _places_for(self, count: int) -> list[int]:
        """Return ``count`` free places, then those behind the last."""
        free = self.free[:count]
        end = len(self.keys)
        return [*free, *range(end, end + count - len(free))]

    def collect(self) -> list[tuple[Hashable, Outcome]]:
        """Return keys and results of done utterances, and free their places."""
        done = self.done.nonzero().flatten().tolist()
        outcomes = []
        for place in done:
            key = self.keys[place]
            if key is not None:
                outcomes.append((key, self._outcome(place)))
        self._free([key for key, _ in outcomes])
        return outcomes

    def _outcome(self, place: int) -> Outcome:
        try:
            return self.history.results(torch.tensor([place], device=self.device))[0]
        except BrokenScores as error:
            return error

    def agreed(self, key: Hashable) -> list[int]:
        """Return the tokens that an utterance's result begins with in any case."""
        place = self.keys.index(key)
        live = (self.scores[place] > NEG_INF).nonzero().flatten().tolist()
        return self.history.agreed(place, int(self.steps[place]), live)

    def drop(self, keys: Sequence[Hashable]) -> None:
        """End utterances without a result."""
        places = [self.keys.index(key) for key in keys]
        if places:
            self.done[torch.tensor(places, device=self.device)] = True
            self._free(keys)

    def _free(self, keys: Sequence[Hashable]) -> None:
        if not keys:
            return
        for key in keys:
            self.keys[self.keys.index(key)] = None
        free = torch.tensor(self.free, device=self.device)
        for scorer in self.joinable:
            scorer.rewind(free)

    def compact(self) -> bool:
        """Remove the free places if they are many; return True if it was done."""
        free = self.free
        if len(free) < LEAVE_AT * len(self.keys) or len(free) == len(self.keys):
            return False
        stay = [place for place, key in enumerate(self.keys) if key is not None]
        index = torch.tensor(stay, device=self.device)
        self._select(index)
        self.history.select(index)
        self.keys = [self.keys[place] for place in stay]
        self.places = torch.arange(len(stay), device=self.device)
        return True

    def _continue(self, parents: Tensor) -> bool:
        """Reorder the rows; utterances leave by :meth:`compact` alone."""
        self._reorder(parents)
        return True

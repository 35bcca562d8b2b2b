"""What the search asks of a scorer.

A scorer object is the running state of one search: it is made for a batch of ``B``
utterances with ``K`` hypotheses each and thrown away afterwards. It sees rows alone:
row ``b * K + k`` is hypothesis k of the utterance at place b. In every step the search
calls, in this order,

1. ``score``, with the token that each row was extended by last (<sos> at first);
2. ``reorder``, with the row that each new row continues;
3. ``select``, from time to time, when finished utterances leave the batch.

Rows whose hypothesis has died, or whose utterance is done, are still called, with any
valid token; what they return has no effect, and they must not disturb other rows.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Movable(Protocol):
    """A state with a row a hypothesis."""

    def reorder(self, rows: Tensor) -> None:
        """New row i continues old row ``rows[i]``, of the same utterance. ``(N,)``."""

    def select(self, utterances: Tensor) -> None:
        """Keep these places ``(B',)`` of the batch, with their rows, in this order."""


class Scorer(Movable, Protocol):
    """Scores the whole vocabulary for every row: a decoder, a language model."""

    def score(self, tokens: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)`` and score what may follow.

        Returns:
            Log-probabilities of the next token, ``(N, V)`` float32.
        """


class CandidateScorer(Movable, Protocol):
    """Scores a few candidates a row: for scores that are dear, as CTC's are."""

    def score(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)`` and score ``candidates (N, C)``.

        Returns:
            Log-probabilities, ``(N, C)`` float32.
        """

"""What the search requires of a scorer.

A scorer object is the running state of one search over a batch of ``B`` utterances with
``K`` hypotheses each. It sees rows only: row ``b * K + k`` is hypothesis k of the
utterance at place b. Shapes: ``N = B K`` rows, ``V`` tokens in the vocabulary, ``C``
candidates a row. In every step the search calls, in this order,

1. ``score``, with the token that each row was extended by last (<sos> at first);
2. ``reorder``, with the row that each new row continues;
3. ``select``, when done utterances leave the batch.

Rows of dead hypotheses and of done utterances are called too, with any valid token.
What they return has no effect, and they must not change the values of other rows.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Movable(Protocol):
    """State with one row a hypothesis."""

    def reorder(self, rows: Tensor) -> None:
        """Let new row i continue old row ``rows[i]`` of the same utterance."""

    def select(self, utterances: Tensor) -> None:
        """Keep the utterances at these places ``(B',)``, in this order."""


class Joinable(Movable, Protocol):
    """State that utterances of another search can join (:mod:`.running`)."""

    def join(self, other: Any, utterances: Tensor) -> None:
        """Put the utterances of another scorer at these places ``(B',)``.

        Args:
            other: of the same class and settings. Both have scored a token before.
            utterances: places of done utterances, or those that follow the last.
        """

    def rewind(self, utterances: Tensor) -> None:
        """Shrink the state of done utterances ``(B',)`` as far as that is possible.

        They go on being called. State that grows with the tokens must not overflow.
        """


class Scorer(Movable, Protocol):
    """Scorer of the whole vocabulary: a decoder, a language model, or hotwords."""

    def score(self, tokens: Tensor) -> Tensor:
        """Append ``tokens (N,)``, one to each row, and score every next token.

        Returns:
            ``(N, V)`` float32: log-probabilities of the next token or, from hotwords,
            bonuses that are added to them.
        """


class CandidateScorer(Movable, Protocol):
    """Scorer of a few candidates a row, for scores that are costly, such as CTC's."""

    def score(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """Append ``tokens (N,)``, one to each row, and score ``candidates (N, C)``.

        Returns:
            Log-probabilities, ``(N, C)`` float32.
        """


class JoinableScorer(Scorer, Joinable, Protocol):
    """Scorer of the whole vocabulary for a running search."""


class JoinableCandidateScorer(CandidateScorer, Joinable, Protocol):
    """Scorer of a few candidates a row for a running search."""

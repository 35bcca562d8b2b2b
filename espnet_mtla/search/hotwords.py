r"""Hotwords: phrases that gain a bonus wherever a hypothesis has them as whole words.

A phrase of n tokens gives 1/n of its bonus at each token, so that it is ahead of its
rivals while it is being spoken. If the match fails, the next token gives back what was
given. In the sum only whole phrases have gained, each its bonus, at each occurrence.

The phrases are a trie, and its states back off as in the algorithm of Aho and Corasick:
to the longest suffix of what was matched that begins a phrase. For a state s, with
"suffix" including s itself, let

    ended(s) = bonus * number of phrases that are suffixes of s
    held(s)  = ended(s) + bonus * largest share that a suffix of s is of a longer phrase

A token from s to s' scores held(s') - held(s), and the next token adds ended(s) if it
ends the word. So a bonus is final at the boundary after the phrase: "art" gains nothing
in "artist". Whether a phrase may begin depends on the token before: see ``Boundaries``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.search.backoff import Arc, BackoffAutomaton, BackoffScorer

ROOT, WORD_START = 0, 1
"""States in which nothing is matched: within a word, and where a word may begin."""


@dataclass(frozen=True)
class Boundaries:
    """Where words end and begin, a flag a token, ``V`` each."""

    ends_before: Sequence[bool]
    """The word before this token is complete."""
    begins_after: Sequence[bool]
    """The next token may begin a word."""


class Hotwords:
    """The automaton of some phrases.

    Args:
        phrases: token ids of each phrase; none is empty.
        bonus: what a whole phrase adds to the score, natural logarithm.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        bonus: float,
        boundaries: Boundaries,
        eos: int,
    ) -> None:
        trie = _Trie(boundaries.begins_after)
        ends = {trie.add(phrase, bonus) for phrase in phrases}
        ended = [0.0] * len(trie.children)
        for state in trie.link():  # suffixes of a state come before it
            shorter = trie.backoff[state]
            ended[state] = ended[shorter] + bonus * (state in ends)
            trie.shares[state] = max(trie.shares[state], trie.shares[shorter])
        held = [a + b for a, b in zip(ended, trie.shares, strict=True)]
        arcs: list[Arc] = [
            (state, token, held[after] - held[state], after)
            for state, children in enumerate(trie.children)
            for token, after in children.items()
        ]
        backoff = [
            (held[shorter] - held[state], shorter)
            for state, shorter in enumerate(trie.backoff)
        ]
        self.automaton = BackoffAutomaton(
            [0.0] * len(trie.root_next), trie.root_next, arcs, backoff, WORD_START
        )
        self.ended = torch.tensor(ended)
        self.ends_before = torch.tensor(boundaries.ends_before)
        self.ends_before[eos] = True
        self.largest_gain = max(held)
        """No token adds more than this to a score."""

    def to(self, device: torch.device) -> Hotwords:
        """Move all tables to ``device``, in place."""
        self.automaton.to(device)
        self.ended = self.ended.to(device)
        self.ends_before = self.ends_before.to(device)
        return self


class _Trie:
    """Phrases by their tokens; state 0 and 1 are :data:`ROOT` and :data:`WORD_START`.

    ``shares``: for each state, what the longer phrases that it begins have given.
    """

    def __init__(self, begins_after: Sequence[bool]) -> None:
        self.root_next = [WORD_START if begins else ROOT for begins in begins_after]
        self.children: list[dict[int, int]] = [{}, {}]
        self.shares = [0.0, 0.0]
        self.backoff = [ROOT, ROOT]

    def add(self, phrase: Sequence[int], bonus: float) -> int:
        """Add a phrase; return its last state."""
        state = WORD_START
        for place, token in enumerate(phrase, 1):
            if token not in self.children[state]:
                self.children[state][token] = len(self.children)
                self.children.append({})
                self.shares.append(0.0)
                self.backoff.append(ROOT)
            state = self.children[state][token]
            if place < len(phrase):
                share = bonus * place / len(phrase)
                self.shares[state] = max(self.shares[state], share)
        return state

    def link(self) -> list[int]:
        """Set what each state backs off to; return the states, short strings first."""
        order = [ROOT, WORD_START]
        for state in order:
            for token, child in self.children[state].items():
                self.backoff[child] = self._after(self.backoff[state], token)
                order.append(child)
        return order

    def _after(self, state: int, token: int) -> int:
        """Return the state after ``token``."""
        while state != ROOT:
            if token in self.children[state]:
                return self.children[state][token]
            state = self.backoff[state]
        return self.root_next[token]


class HotwordScorer(BackoffScorer):
    """Bonuses of hotwords as a scorer of the search."""

    def __init__(self, hotwords: Hotwords, batch: int, beam: int) -> None:
        super().__init__(hotwords.automaton, batch, beam)
        self.hotwords = hotwords

    def score(self, tokens: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)``; return each token's gain, ``(N, V)``."""
        scores = super().score(tokens)
        final = self.hotwords.ended[self.states].unsqueeze(1)
        return torch.where(self.hotwords.ends_before, scores + final, scores)


class OwnHotwordScorer:
    """Hotwords that each utterance has for itself, or not, as a scorer of the search.

    Args:
        hotwords: of each utterance; None: it has none.
        beam: hypotheses of an utterance.
    """

    def __init__(self, hotwords: Sequence[Hotwords | None], beam: int) -> None:
        self.beam = beam
        self.scorers = [
            None if words is None else HotwordScorer(words, 1, beam)
            for words in hotwords
        ]

    def score(self, tokens: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)``; return each token's gain, ``(N, V)``.

        Without any hotwords it is a single 0.
        """
        gains: list[Tensor | None] = [
            None if scorer is None else scorer.score(tokens[self._rows(place)])
            for place, scorer in enumerate(self.scorers)
        ]
        some = next((gain for gain in gains if gain is not None), None)
        if some is None:
            return torch.zeros((), device=tokens.device)
        none = torch.zeros_like(some)
        return torch.cat([none if gain is None else gain for gain in gains])

    def reorder(self, rows: Tensor) -> None:
        """Let new row i continue old row ``rows[i]``."""
        for place, scorer in enumerate(self.scorers):
            if scorer is not None:
                scorer.reorder(rows[self._rows(place)] - place * self.beam)

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances ``(B',)`` with their rows."""
        self.scorers = [self.scorers[place] for place in utterances.tolist()]

    def join(self, other: OwnHotwordScorer, utterances: Tensor) -> None:
        """Put the utterances of ``other`` at these places ``(B',)``."""
        places = utterances.tolist()
        self.scorers += [None] * (max(places) + 1 - len(self.scorers))
        for place, scorer in zip(places, other.scorers, strict=True):
            self.scorers[place] = scorer

    def rewind(self, utterances: Tensor) -> None:
        """Drop the hotwords of done utterances."""
        for place in utterances.tolist():
            self.scorers[place] = None

    def _rows(self, place: int) -> slice:
        return slice(place * self.beam, (place + 1) * self.beam)

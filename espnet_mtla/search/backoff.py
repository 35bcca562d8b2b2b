r"""Scores that back off from long contexts to short ones, for all tokens at once.

A back-off automaton has a state a context. Its state 0, the root, is the empty context
and scores every token. Any other state has arcs for some tokens. For the others it adds
its back-off weight to what the next shorter context scores:

    score(s, t) = weight of the arc (s, t)                  if s has an arc for t
                  backoff_weight(s) + score(backoff(s), t)  otherwise

Both an n-gram language model and a set of phrases (:mod:`.hotwords`) are of this form.
Letters: ``N`` rows, ``V`` tokens, ``S`` states, ``A`` arcs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.rows import put_rows, rows_of

Arc = tuple[int, int, float, int]
"""State, token, weight, and the state that follows."""


class BackoffAutomaton:
    """Tables of a back-off automaton on one device.

    Args:
        root_weights: ``V`` scores of the root.
        root_next: ``V`` states that follow the root.
        arcs: arcs of the other states, in any order, at most one a state and token.
        backoff: for each of ``S`` states its back-off weight and the state of the next
            shorter context, (0.0, 0) for the root.
        start: the state before the first token.
    """

    def __init__(
        self,
        root_weights: Sequence[float],
        root_next: Sequence[int],
        arcs: Sequence[Arc],
        backoff: Sequence[tuple[float, int]],
        start: int = 0,
    ) -> None:
        self.vocab_size, self.start = len(root_weights), start
        self.root_weights = torch.tensor(root_weights, dtype=torch.float32)
        self.root_next = torch.tensor(root_next)
        self.backoff_weights = torch.tensor([weight for weight, _ in backoff])
        self.backoff_states = torch.tensor([state for _, state in backoff])
        # The last arc is of no state, for a token beyond the vocabulary: padding.
        ordered = [*sorted(arcs), (len(backoff), self.vocab_size, 0.0, 0)]
        states = torch.tensor([arc[0] for arc in ordered])
        self.arc_tokens = torch.tensor([arc[1] for arc in ordered])
        self.arc_weights = torch.tensor([arc[2] for arc in ordered])
        self.arc_next = torch.tensor([arc[3] for arc in ordered])
        self.arc_keys = states * (self.vocab_size + 1) + self.arc_tokens
        self.arc_counts = torch.bincount(states, minlength=len(backoff))[: len(backoff)]
        self.arc_begins = self.arc_counts.cumsum(0) - self.arc_counts
        self.widths = self._widths()

    def _widths(self) -> list[int]:
        """Return the most arcs of a state after 0, 1, ... back-offs, the root apart."""
        widths = []
        states = torch.arange(1, len(self.backoff_states))
        while len(states):
            widths.append(int(self.arc_counts[states].max()))
            states = self.backoff_states[states].unique()
            states = states[states != 0]
            if len(widths) > len(self.backoff_states):
                raise AssertionError("a state backs off to itself")
        return widths

    def to(self, device: torch.device) -> BackoffAutomaton:
        """Move all tables to ``device``, in place."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def scores(self, states: Tensor) -> Tensor:
        """Return the scores ``(N, V)`` float32 of all tokens after ``states (N,)``."""
        out = self.root_weights.new_empty(len(states), self.vocab_size + 1)
        out[:, :-1] = self.root_weights
        # From the shortest context to the longest, each overwriting what it knows.
        # Rows with a short chain are at the root meanwhile, which changes nothing.
        for shorter, width in reversed(self._chain(states)):
            out += self.backoff_weights[shorter].unsqueeze(1)
            arcs = self._arcs(shorter, width)
            out.scatter_(1, self.arc_tokens[arcs], self.arc_weights[arcs])
        return out[:, :-1]  # the last column took the padding

    def step(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the states ``(N,)`` after one more token a row ``(N,)``."""
        after = self.root_next[tokens]
        for shorter, _ in reversed(self._chain(states)):
            keys = shorter * (self.vocab_size + 1) + tokens
            # Never past the end: the padding arc has the largest key.
            place = torch.searchsorted(self.arc_keys, keys)
            known = self.arc_keys[place] == keys
            after = torch.where(known, self.arc_next[place], after)
        return after

    def _chain(self, states: Tensor) -> list[tuple[Tensor, int]]:
        """Return ``states`` and those they back off to, with their most arcs."""
        chain = []
        for width in self.widths:
            if (
                states.device.type == "cpu"
            ):  # reading a GPU's numbers would make it wait
                width = int(self.arc_counts[states].max())
            chain.append((states, width))
            states = self.backoff_states[states]
        return chain

    def _arcs(self, states: Tensor, width: int) -> Tensor:
        """Return places of the arcs of each state, ``(N, width)``, padded."""
        index = torch.arange(width, device=states.device)
        inside = index < self.arc_counts[states].unsqueeze(1)
        places = self.arc_begins[states].unsqueeze(1) + index
        return torch.where(inside, places, len(self.arc_keys) - 1)


class BackoffScorer:
    """A back-off automaton as a scorer of the search: a state a row."""

    def __init__(self, automaton: BackoffAutomaton, batch: int, beam: int) -> None:
        self.automaton, self.beam = automaton, beam
        device = automaton.root_weights.device
        self.states = torch.full((batch * beam,), automaton.start, device=device)
        self.begun = False

    def score(self, tokens: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)`` and score what may follow, ``(N, V)``."""
        if self.begun:  # the start state has <sos>, the first token, already
            self.states = self.automaton.step(self.states, tokens)
        self.begun = True
        return self.automaton.scores(self.states)

    def reorder(self, rows: Tensor) -> None:
        """Let new row i continue old row ``rows[i]``."""
        self.states = self.states[rows]

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances ``(B',)`` with their rows."""
        self.states = self.states.view(-1, self.beam)[utterances].flatten()

    def join(self, other: BackoffScorer, utterances: Tensor) -> None:
        """Put the utterances of ``other`` at these places ``(B',)``.

        Both must have scored a token before.
        """
        assert self.begun and other.begun, "no token was scored"
        rows = rows_of(utterances, self.beam)
        self.states = put_rows(self.states, other.states, rows)

    def rewind(self, utterances: Tensor) -> None:
        """Leave done utterances as they are: this state does not grow."""

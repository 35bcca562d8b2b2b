r"""CTC prefix scores as a scorer of the search, and the best path of CTC.

The probability that a label sequence *starts with* g, summed over all alignments, after
Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech
recognition", algorithm 2. For a prefix g whose last label is l, the forward variables
after t frames are n_t (alignments of exactly g that end in l) and b_t (that end in
blank). A prefix grows by the label c through

    start_t(c) = b_t + n_t        (b_t alone when c = l: a repeat needs a blank between)
    n'_t = (n'_{t-1} + start_{t-1}(c)) p_t(c)
    b'_t = (b'_{t-1} + n'_{t-1}) p_t(blank)
    psi(g c) = sum_t start_{t-1}(c) p_t(c),     psi(g <eos>) = n_T + b_T

Two properties make it fast. First, psi needs no recursion: candidates are scored by one
sum over frames, and new forward variables are computed for the chosen token only.
Second, both recursions have the form x_t = (x_{t-1} + u_{t-1}) p_t. Its solution is
x_t = P_t sum_{j<t} u_j / P_j with P_t = p_1 ... p_t, a cumulative log-sum-exp, so there
is no loop over frames. log P_t reaches thousands of nats, so these sums are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.rows import put_rows, rows_of
from espnet_mtla.attention.precision import NEG_INF


class CTCPrefixScorer:
    """Log-probabilities by CTC of a token after each row's prefix.

    Args:
        log_probs: ``(B, T, V)`` log-softmax of the CTC layer; padding is not read.
        lens: valid frames, ``(B,)``.
        beam: hypotheses an utterance, K.
    """

    def __init__(
        self, log_probs: Tensor, lens: Tensor, beam: int, eos: int, blank: int = 0
    ) -> None:
        self.beam, self.eos, self.blank = beam, eos, blank
        self.lens = lens.to(log_probs.device)
        frame = torch.arange(log_probs.size(1), device=log_probs.device)
        # (B, T): false in padding. Its values may be NaN and are replaced.
        self.valid = frame < self.lens.unsqueeze(1)
        kept = log_probs.float().masked_fill(~self.valid.unsqueeze(-1), 0.0)
        self.log_probs = kept.transpose(1, 2).contiguous()  # (B, V, T): a label's row
        self._begin()

    def _begin(self) -> None:
        """Set the forward variables of the empty prefix: blanks only."""
        blanks = self._blanks()
        before = blanks.new_zeros(len(blanks), 1)
        self.blank_end = torch.cat((before, blanks.cumsum(1)), 1)  # (N, T + 1), b_t
        self.label_end = torch.full_like(self.blank_end, NEG_INF)  # n_t
        self.prefix = before.squeeze(1)  # (N,) log psi of the row's prefix
        self.last: Tensor | None = None  # (N,) last label, None before the first

    def score(self, tokens: Tensor, candidates: Tensor) -> Tensor:
        """Extend each row by ``tokens (N,)`` and score ``candidates (N, C)``."""
        if self.last is None:
            self.last = torch.full_like(tokens, self.blank)  # <sos> is no label
        else:
            self._extend(self.last, tokens)
        # Every alignment of exactly the prefix also starts with it, so start <= psi and
        # start / psi <= 1: float32 is accurate enough for its logarithm.
        both, blank = ((x - self.prefix.unsqueeze(1)).float() for x in self._starts())
        repeat = (candidates == self.last.unsqueeze(1)).unsqueeze(-1)
        paths = torch.where(repeat, blank.unsqueeze(1), both.unsqueeze(1))
        gains = _log_sum_exp(paths + self._label_log_probs(candidates))  # (N, C)
        ended = (self._whole() - self.prefix).float().unsqueeze(1)
        gains = torch.where(candidates == self.eos, ended, gains)
        dead = self.prefix == NEG_INF  # more labels than the frames can hold
        return gains.masked_fill(dead.unsqueeze(1), NEG_INF)

    def reorder(self, rows: Tensor) -> None:
        """Let new row i continue old row ``rows[i]``."""
        self._select_rows(rows)

    def select(self, utterances: Tensor) -> None:
        """Keep these utterances ``(B',)`` with their rows."""
        self.lens = self.lens[utterances]
        frames = int(self.lens.max())
        self.valid = self.valid[:, :frames][utterances]
        self.log_probs = self.log_probs[:, :, :frames][utterances]
        self.blank_end = self.blank_end[:, : frames + 1]
        self.label_end = self.label_end[:, : frames + 1]
        self._select_rows(rows_of(utterances, self.beam))

    def join(self, other: CTCPrefixScorer, utterances: Tensor) -> None:
        """Put the utterances of ``other`` at these places ``(B',)``.

        Both must have scored a token before.
        """
        assert self.last is not None and other.last is not None, "no token was scored"
        rows = rows_of(utterances, self.beam)
        self.lens = put_rows(self.lens, other.lens, utterances)
        self.valid = put_rows(self.valid, other.valid, utterances)
        self.log_probs = put_rows(self.log_probs, other.log_probs, utterances)
        self.blank_end = put_rows(self.blank_end, other.blank_end, rows, NEG_INF)
        self.label_end = put_rows(self.label_end, other.label_end, rows, NEG_INF)
        self.prefix = put_rows(self.prefix, other.prefix, rows)
        self.last = put_rows(self.last, other.last, rows)

    def rewind(self, utterances: Tensor) -> None:
        """Leave done utterances as they are: this state does not grow."""

    def _select_rows(self, rows: Tensor) -> None:
        self.blank_end, self.label_end = self.blank_end[rows], self.label_end[rows]
        self.prefix = self.prefix[rows]
        if self.last is not None:
            self.last = self.last[rows]

    def _label_log_probs(self, labels: Tensor) -> Tensor:
        """Return ``log p_t(label)``, ``(N, ..., T)``, of labels ``(N, ...)``."""
        row = torch.arange(len(labels), device=labels.device) // self.beam
        row = row.view(-1, *(1,) * (labels.dim() - 1))
        label_rows = self.log_probs.flatten(0, 1)
        return label_rows[row * self.log_probs.size(1) + labels]

    def _blanks(self) -> Tensor:
        """Return ``log p_t(blank)`` of each row, ``(N, T)`` float64."""
        rows = self.log_probs.size(0) * self.beam
        return self._label_log_probs(self.lens.new_full((rows,), self.blank)).double()

    def _starts(self) -> tuple[Tensor, Tensor]:
        """Return ``log start_t`` for t = 0 .. T-1, ``(N, T)`` each, -inf in padding.

        Returns:
            That of a label other than the last one, and that of the last one again.
        """
        padding = ~self.valid.repeat_interleave(self.beam, dim=0)
        both = torch.logaddexp(self.blank_end, self.label_end)[:, :-1]
        blank = self.blank_end[:, :-1]
        return both.masked_fill(padding, NEG_INF), blank.masked_fill(padding, NEG_INF)

    def _whole(self) -> Tensor:
        """Return log psi of <eos>, ``(N,)``: alignments of exactly the prefix."""
        end = self.lens.repeat_interleave(self.beam).unsqueeze(1)
        ended = torch.logaddexp(self.blank_end, self.label_end)
        return ended.gather(1, end).squeeze(1)

    def _extend(self, last: Tensor, tokens: Tensor) -> None:
        """Compute the forward variables of each prefix extended by ``tokens (N,)``."""
        both, blank = self._starts()
        start = torch.where((tokens == last).unsqueeze(1), blank, both)
        label_log_probs = self._label_log_probs(tokens).double()
        self.prefix = (start + label_log_probs).logsumexp(1)
        self.label_end = _solve_recursion(start, label_log_probs)
        self.blank_end = _solve_recursion(self.label_end[:, :-1], self._blanks())
        self.last = tokens


def _log_sum_exp(x: Tensor) -> Tensor:
    """Compute log-sum-exp of float32 ``(..., T)``; faster on CPUs than torch.logsumexp.

    exp is slow on CPUs where its result is subnormal, as it is for most frames here.
    Terms below e^-40 of the largest do not change a float32 sum, so they are set to
    e^-40.
    """
    most = x.amax(-1, keepdim=True)
    total = (x - most).clamp_(min=-40.0).exp_().sum(-1).log_()
    return torch.where(most.squeeze(-1) == NEG_INF, NEG_INF, total + most.squeeze(-1))


def _solve_recursion(inputs: Tensor, label_log_probs: Tensor) -> Tensor:
    """Solve ``x_t = (x_{t-1} + u_{t-1}) p_t`` with ``x_0 = 0``; all are logarithms.

    Args:
        inputs: u for t = 0 .. T-1, ``(N, T)``; label_log_probs: p for t = 1 .. T.

    Returns:
        x for t = 0 .. T, ``(N, T + 1)``.
    """
    product = label_log_probs.cumsum(1)  # P_1 .. P_T
    before = product - label_log_probs  # P_0 .. P_{T-1}
    x = product + (inputs - before).logcumsumexp(1)
    return torch.cat((torch.full_like(x[:, :1], NEG_INF), x), 1)


def best_path(
    log_probs: Tensor, lens: Tensor, blank: int = 0
) -> list[tuple[list[int], float]]:
    """Return the labels of CTC's most probable alignment.

    Args:
        log_probs: ``(B, T, V)``; lens: valid frames ``(B,)``.

    Returns:
        For each utterance the tokens, without repeats and blanks, and the alignment's
        log-probability.
    """
    best, labels = log_probs.float().max(-1)
    valid = torch.arange(labels.size(1), device=lens.device) < lens.unsqueeze(1)
    changed = torch.ones_like(valid)
    changed[:, 1:] = labels[:, 1:] != labels[:, :-1]
    kept = valid & changed & (labels != blank)
    scores = torch.where(valid, best, 0.0).sum(1).tolist()
    found = zip(labels.cpu(), kept.cpu(), scores, strict=True)
    return [(row[mask].tolist(), score) for row, mask, score in found]

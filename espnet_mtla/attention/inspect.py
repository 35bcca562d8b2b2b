"""Attention weights, which neither training nor decoding computes: to be looked at.

Letters: ``N`` rows, ``H`` query heads, ``G`` heads of the entries, ``U`` queries,
``S`` finished chunks, ``T`` tokens of a row, ``d`` key width, ``w`` entry width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.precision import NEG_INF


def chunk_weights(
    q: Tensor,
    layout: EntryLayout,
    finished: Tensor,
    running: Tensor,
    visible: Tensor,
    scale: float,
) -> Tensor:
    """What queries see of the chunks before them, and of their own as it stood then.

    Args:
        q: ``(N, H, U, d)``, in the space of the entries.
        finished: entries of the chunks of a row, ``(N, G, S, w)``; more may be there
            than are finished.
        own: each query's running entry, ``(N, G, U, w)``.
        visible: how many chunks lie before the query's own, ``(N or 1, U)``.

    Returns:
        ``(N, H, U, S + 1)``, the last column for the own entry; rows sum to 1.
    """
    q = q.unflatten(1, (running.size(1), -1))  # (N, G, H / G, U, d)
    before = (q @ layout.keys(finished).unsqueeze(2).mT).flatten(1, 2)
    itself = (q * layout.keys(running).unsqueeze(2)).sum(-1, keepdim=True).flatten(1, 2)
    chunk = torch.arange(finished.size(2), device=q.device)
    hidden = (chunk >= visible.unsqueeze(-1)).unsqueeze(1)  # (N or 1, 1, U, S)
    scores = torch.cat((before.masked_fill(hidden, NEG_INF), itself), dim=-1)
    return (scores * scale).softmax(-1)


def over_tokens(weights: Tensor, index: Tensor, stride: int, tokens: int) -> Tensor:
    """Weights of chunks at their last tokens, and the own entry's at the query's.

    Args:
        weights: as :func:`chunk_weights` gives them.
        index: of each query in its row, ``(N or 1, U)``.
        tokens: T, that the row is shown with.

    Returns:
        ``(N, H, U, T)``; rows sum to 1.
    """
    chunks = weights.size(-1) - 1
    token = torch.arange(tokens, device=weights.device)
    ends = (token + 1) % stride == 0
    missing = max(tokens // stride - chunks, 0)
    before = F.pad(weights[..., :-1], (0, missing)).repeat_interleave(stride, dim=-1)
    before = F.pad(before, (0, max(tokens - before.size(-1), 0)))[..., :tokens]
    itself = (token == index.unsqueeze(-1)).unsqueeze(1)  # (N or 1, 1, U, T)
    return before * ends + weights[..., -1:] * itself

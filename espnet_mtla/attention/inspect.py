"""Attention weights, for plots and ``output_attentions``.

Neither training nor decoding computes them.

Letters: ``N`` rows, ``H`` query heads, ``G`` heads of the entries, ``U`` queries,
``S`` finished chunks, ``T`` tokens of a row, ``d`` key width, ``w`` entry width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.precision import NEG_INF
from espnet_mtla.errors import UserError


def chunk_weights(
    q: Tensor,
    layout: EntryLayout,
    finished: Tensor,
    running: Tensor,
    visible: Tensor,
    scale: float,
) -> Tensor:
    """Compute attention weights over finished chunks and each query's running entry.

    Args:
        q: queries in the space of the entries' keys, ``(N, H, U, d)``.
        layout: of an entry.
        finished: entries of the chunks of a row, ``(N, G, S, w)``; later ones may be
            unfinished.
        running: running entry of each query, ``(N, G, U, w)``.
        visible: number of chunks that finished before the query's began,
            ``(N or 1, U)``.
        scale: factor of the scores.

    Returns:
        ``(N, H, U, S + 1)``, the running entry last; the sum over the last dimension
        is 1.
    """
    refuse_options(layout)
    q = q.unflatten(1, (running.size(1), -1))  # (N, G, H / G, U, d)
    before = (q @ layout.keys(finished).unsqueeze(2).mT).flatten(1, 2)
    itself = (q * layout.keys(running).unsqueeze(2)).sum(-1, keepdim=True).flatten(1, 2)
    chunk = torch.arange(finished.size(2), device=q.device)
    hidden = (chunk >= visible.unsqueeze(-1)).unsqueeze(1)  # (N or 1, 1, U, S)
    scores = torch.cat((before.masked_fill(hidden, NEG_INF), itself), dim=-1)
    return (scores * scale).softmax(-1)


def refuse_options(layout: EntryLayout) -> None:
    """Raise an error if attention weights cannot be computed for a layout.

    Raises:
        UserError: it has a raw window or shifted chunks.
    """
    for name, is_set in (("raw_window", layout.window), ("phase", layout.offset)):
        if is_set:
            raise UserError(
                f"{name}: attention weights of layers with it cannot be shown; leave "
                f"out output_attentions or the plot, or train without {name}"
            )


def over_tokens(weights: Tensor, index: Tensor, stride: int, tokens: int) -> Tensor:
    """Assign a chunk's weight to its last token, the running entry's to the query.

    Args:
        weights: as :func:`chunk_weights` returns them, ``(N, H, U, S + 1)``.
        index: of each query in its row, ``(N or 1, U)``.
        stride: tokens of a chunk.
        tokens: T.

    Returns:
        ``(N, H, U, T)``; the sum over the last dimension is 1.
    """
    chunks = weights.size(-1) - 1
    token = torch.arange(tokens, device=weights.device)
    ends = (token + 1) % stride == 0
    missing = max(tokens // stride - chunks, 0)
    before = F.pad(weights[..., :-1], (0, missing)).repeat_interleave(stride, dim=-1)
    before = F.pad(before, (0, max(tokens - before.size(-1), 0)))[..., :tokens]
    itself = (token == index.unsqueeze(-1)).unsqueeze(1)  # (N or 1, 1, U, T)
    return before * ends + weights[..., -1:] * itself

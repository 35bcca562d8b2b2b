"""Attention over merged latents by one call with a mask, for few scores.

In short rows the calls take the time, not the scores. At 2 to 10 rows of 70 to 250
prompt frames and 15 to 40 tokens a whole decoder trains 10 to 20 % faster than by
blocks of queries; from about a million scores on both are equally fast (CPU seconds of
one core).

Letters as in :mod:`.strided`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_SCORES = 2**19


def expand(
    entries: Tensor, weight: Tensor, heads: int, width: int
) -> tuple[Tensor, Tensor]:
    """Expand entries to keys ``(B, H, n, d)`` and values ``(B, H, n, e)``.

    Args:
        entries: latent then rotary key, ``(B, n, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        heads: H.
        width: d.
    """
    latent, rope = entries.tensor_split((weight.size(1),), dim=-1)
    both = F.linear(latent, weight).unflatten(-1, (heads, -1)).transpose(1, 2)
    nope, values = both.tensor_split((width - rope.size(-1),), dim=-1)
    rope = rope.unsqueeze(1).expand(-1, heads, -1, -1)
    return torch.cat((nope, rope), dim=-1), values


def attend_dense(
    q: Tensor,
    finished: Tensor,
    running: Tensor,
    weight: Tensor,
    before: Tensor,
    scale: float,
    dropout: float,
) -> Tensor:
    """Compute attention of queries over finished chunks and their running entries.

    Args:
        q: ``(B, H, U, d)``.
        finished: entries of finished chunks, ``(B, S, w)``.
        running: running entry of each query, ``(B, U, w)``; or none, ``(B, 0, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        before: number of finished chunks that a query sees, ``(B or 1, U)``.
        scale: factor of the scores.
        dropout: probability of dropping a weight.

    Returns:
        ``(B, H, U, e)``.
    """
    entries = torch.cat((finished, running), dim=1)
    k, v = expand(entries, weight, q.size(1), q.size(-1))
    diagonal = torch.eye(q.size(2), running.size(1), dtype=torch.bool, device=q.device)
    diagonal = diagonal.expand(len(before), -1, -1)
    seen = torch.cat((first(before, finished.size(1)), diagonal), dim=-1)
    return F.scaled_dot_product_attention(
        q, k, v, seen.unsqueeze(1), dropout, scale=scale
    )


def attend_dense_window(
    q: Tensor,
    finished: Tensor,
    raw: Tensor,
    weight: Tensor,
    seen: tuple[Tensor, Tensor, Tensor],
    scale: float,
    dropout: float,
) -> Tensor:
    """Compute attention of queries over finished chunks and unmerged tokens.

    Args:
        q: ``(B, H, U, d)``.
        finished: entries of finished chunks, ``(B, S, w)``.
        raw: unmerged entries of all tokens, ``(B, T, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        seen: of each query the number of finished chunks, and the first and the last
            unmerged token that it sees, each ``(B or 1, U)``.
        scale: factor of the scores.
        dropout: probability of dropping a weight.

    Returns:
        ``(B, H, U, e)``.
    """
    merged, start, index = seen
    k, v = expand(torch.cat((finished, raw), 1), weight, q.size(1), q.size(-1))
    band = first(index + 1, raw.size(1)) & ~first(start, raw.size(1))
    mask = torch.cat((first(merged, finished.size(1)), band), dim=-1)
    return F.scaled_dot_product_attention(
        q, k, v, mask.unsqueeze(1), dropout, scale=scale
    )


def first(count: Tensor, slots: int) -> Tensor:
    """Return a mask ``(B, U, slots)`` that is true at the first ``count (B, U)`` slots.

    >>> first(torch.tensor([[0, 2]]), slots=3).int().tolist()
    [[[0, 0, 0], [1, 1, 0]]]
    """
    return torch.arange(slots, device=count.device) < count.unsqueeze(-1)

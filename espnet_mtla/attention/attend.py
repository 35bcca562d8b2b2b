"""Attention in training: all queries of a row at once, over its entries.

Letters: ``B`` rows, ``H`` query heads, ``G`` heads of the entries, ``T`` queries, ``S``
entries, ``d`` key width, ``e`` value width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend_causal(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, dropout: float
) -> Tensor:
    """Query t sees the first ``visible[b, t]`` entries.

    Args:
        q: ``(B, H, T, d)``; k: ``(B, G, S, d)``; v: ``(B, G, S, e)``, G divides H.
        visible: ``(B or 1, T)``, at least 1.

    Returns:
        ``(B, H, T, e)``.
    """
    mask = _first(visible, k.size(2)).unsqueeze(1)  # (B, 1, T, S)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=k.size(1) != q.size(1),
    )


def attend_strided(
    q: Tensor,
    finished: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    visible: Tensor,
    scale: float,
    dropout: float,
) -> Tensor:
    """Query t sees the first ``visible[b, t]`` finished chunks and its own running one.

    This is the stride-aware causal mask (paper section 4.3) without the T x T matrix.

    Args:
        q: ``(B, H, T, d)``.
        finished: keys ``(B, H, S, d)`` and values ``(B, H, S, e)`` of finished chunks.
        own: keys ``(B, H, T, d)`` and values ``(B, H, T, e)`` of each query's own
            chunk, summed up to the query.
        visible: ``(B or 1, T)``, chunks finished before the query's own began.

    Returns:
        ``(B, H, T, e)``.
    """
    (k, v), (own_k, own_v) = finished, own
    scores = (q @ k.transpose(2, 3)) * scale
    hidden = ~_first(visible, k.size(2)).unsqueeze(1)
    scores = scores.masked_fill(hidden, float("-inf"))
    own_score = (q * own_k).sum(-1, keepdim=True) * scale
    weights = torch.softmax(torch.cat((scores, own_score), dim=-1), dim=-1)
    weights = F.dropout(weights, dropout, training=dropout > 0)
    return weights[..., :-1] @ v + weights[..., -1:] * own_v


def _first(count: Tensor, size: int) -> Tensor:
    """``(..., size)``: true for the first ``count`` of ``size`` places."""
    return torch.arange(size, device=count.device) < count.unsqueeze(-1)

"""The two ways to attend: all queries over strided entries, and queries over a cache.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``H`` query heads,
``G`` heads of the entries, ``T`` queries, ``S`` entries, ``d`` key width, ``e`` value
width.
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


def attend_cache(
    q: Tensor,
    prompt: tuple[Tensor, Tensor, Tensor],
    suffix: tuple[Tensor, Tensor, Tensor],
    own: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """Queries over a prompt that K hypotheses share and over each row's own suffix.

    Args:
        q: ``(N, H, T, d)``, in the space of the entries.
        prompt: keys ``(B, G, P, d)``, values ``(B, G, P, e)``, valid entries ``(B,)``.
        suffix: keys ``(N, G, S, d)``, values ``(N, G, S, e)``, entries that query t of
            a row sees ``(N, T)``.
        own: key ``(N, G, T, d)`` and value ``(N, G, T, e)`` of each query's own running
            chunk where the suffix does not show it: with several queries a row.

    Returns:
        ``(N, H, T, e)``.
    """
    (rows, heads, tokens, _), groups = q.shape, prompt[0].size(1)
    per_group = heads // groups
    q = q.reshape(rows, groups, per_group * tokens, -1)  # (N, G, M, d)
    parts = [_prompt_scores(q, prompt[0], prompt[2]), _suffix_scores(q, suffix, tokens)]
    if own is not None:
        parts.append(_own_scores(q, own[0]))
    sizes = [part.size(-1) for part in parts]
    weights = torch.softmax(torch.cat(parts, dim=-1) * scale, dim=-1).split(sizes, -1)
    out = _prompt_values(weights[0], prompt[1]) + weights[1] @ suffix[1]
    if own is not None:
        out = out + weights[2] * own[1].repeat(1, 1, per_group, 1)
    return out.reshape(rows, heads, tokens, -1)


def _first(count: Tensor, size: int) -> Tensor:
    """``(..., size)``: true for the first ``count`` of ``size`` places."""
    return torch.arange(size, device=count.device) < count.unsqueeze(-1)


def _by_utterance(x: Tensor, utterances: int) -> Tensor:
    """``(N, G, M, w) -> (B, G, K M, w)``: an utterance's rows beside each other."""
    rows, groups, queries, width = x.shape
    beam = rows // utterances
    x = x.view(utterances, beam, groups, queries, width)
    return x.transpose(1, 2).reshape(utterances, groups, beam * queries, width)


def _by_row(x: Tensor, rows: int) -> Tensor:
    """The inverse of :func:`_by_utterance`."""
    utterances, groups, queries, width = x.shape
    beam = rows // utterances
    x = x.view(utterances, groups, beam, queries // beam, width)
    return x.transpose(1, 2).reshape(rows, groups, queries // beam, width)


def _prompt_scores(q: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    scores = _by_utterance(q, k.size(0)) @ k.transpose(2, 3)  # (B, G, K M, P)
    hidden = ~_first(valid, k.size(2))[:, None, None]
    return _by_row(scores.masked_fill_(hidden, float("-inf")), q.size(0))


def _prompt_values(weights: Tensor, v: Tensor) -> Tensor:
    return _by_row(_by_utterance(weights, v.size(0)) @ v, weights.size(0))


def _suffix_scores(
    q: Tensor, suffix: tuple[Tensor, Tensor, Tensor], tokens: int
) -> Tensor:
    k, _, visible = suffix
    scores = (q @ k.transpose(2, 3)).unflatten(2, (-1, tokens))
    hidden = ~_first(visible, k.size(2))[:, None, None]  # (N, 1, 1, T, S)
    return scores.masked_fill_(hidden, float("-inf")).flatten(2, 3)


def _own_scores(q: Tensor, own_k: Tensor) -> Tensor:
    tokens = own_k.size(2)
    q = q.unflatten(2, (-1, tokens))  # (N, G, M / T, T, d)
    return (q * own_k.unsqueeze(2)).sum(-1, keepdim=True).flatten(2, 3)

"""Attention over a cache: a prompt that hypotheses share, their suffixes, one merge.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``H`` query heads,
``G`` heads of the entries, ``L`` new tokens a row, ``M = L H / G`` queries of a row and
entry head, ``d`` key width, ``e`` value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.cache import EntryLayout, KVCache


def attend_cached(
    q: Tensor, cache: KVCache, visible: Tensor, own: Tensor | None, scale: float
) -> Tensor:
    """Queries over the prompt that K hypotheses share and over each row's own suffix.

    The prompt is read once an utterance, by the queries of all its hypotheses.

    Args:
        q: ``(N, H, L, d)``, in the space of the entries.
        visible: suffix entries that query l of a row sees, ``(N, L)``.
        own: each query's own running entry ``(N, G, L, w)`` where the suffix does not
            show it: with several queries a row.

    Returns:
        ``(N, H, L, e)``.
    """
    (rows, heads, tokens, _), layout = q.shape, cache.layout
    attend, merge = cache.backend.attend, cache.backend.merge
    per_group = heads // layout.heads
    q = q.reshape(rows, layout.heads, per_group * tokens, -1)  # (N, G, M, d)
    seen = visible if tokens == 1 else visible.repeat(1, per_group)
    used = cache.suffix[:, :, : cache.filled]
    out, lse = attend(q, used, layout, seen, scale)
    if own is not None:
        own_out, own_lse = _attend_own(q, own, layout, scale)
        out = merge(own_out, own_lse, out, lse)
        lse = torch.logaddexp(own_lse, lse)
    if cache.prompt.size(2) > 0:
        asked = _by_utterance(q, cache.prompt.size(0))
        whole = cache.whole.unsqueeze(1)
        found, found_lse = attend(asked, cache.prompt, layout, whole, scale)
        found_lse = _by_row(found_lse.unsqueeze(-1), rows).squeeze(-1)
        out = merge(_by_row(found, rows), found_lse, out, lse)
    return out.reshape(rows, heads, tokens, -1)


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


def _attend_own(
    q: Tensor, own: Tensor, layout: EntryLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Each query over one entry: its value, and its score as the log-sum-exp."""
    per_group = q.size(2) // own.size(2)
    own = own.repeat(1, 1, per_group, 1)  # (N, G, M, w)
    score = (q * layout.keys(own)).sum(-1) * scale
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    return layout.values(own), score.to(exact)

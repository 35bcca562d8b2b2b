"""Attention over a cache: the prompt that hypotheses share, and each row's suffix.

A softmax over prompt and suffix is computed in two parts, which a back-end merges: with
outputs ``o_1, o_2`` and log-sum-exps ``l_1, l_2`` of the scores,

    l = log(exp(l_1) + exp(l_2)),   o = exp(l_1 - l) o_1 + exp(l_2 - l) o_2

The K hypotheses of an utterance read the prompt together, as K times as many queries of
one matrix product: the prompt is read from memory once and not K times.

Letters: ``B`` utterances, ``K`` hypotheses each, ``N = B K`` rows, ``H`` query heads,
``G`` heads of the entries, ``L`` new tokens a row, ``M = L H / G`` queries of a row and
entry head, ``d`` key width, ``e`` value width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend import DecodeBackend
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.window import WindowPlacement, attend_masked


def attend_to_prompt(
    q: Tensor,
    entries: Tensor,
    layout: EntryLayout,
    cache: KVCache,
    scale: float,
    visible: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute attention of all hypotheses over the prompt of their utterance.

    Args:
        q: queries in the space of the entries' keys, ``(N, H, L, d)``.
        entries: of the prompt, ``(B, G, P, w)``.
        layout: of ``entries``.
        cache: gives the back-end and the lengths of prompts.
        scale: factor of the scores.
        visible: number of entries that a query sees, ``(N, L)``; None: all chunks of
            its prompt.

    Returns:
        Output ``(N, H, L, e)`` and log-sum-exp ``(N, H, L)``.
    """
    (rows, heads, tokens, _), (prompts, groups) = q.shape, entries.shape[:2]
    q = q.reshape(prompts, rows // prompts, groups, heads // groups * tokens, -1)
    q = q.transpose(1, 2).flatten(2, 3)  # (B, G, K M, d)
    if visible is None:
        seen = cache.timeline.prompt_chunks.unsqueeze(1)
    elif tokens == 1 and not cache.timeline.uneven:
        seen = visible.view(prompts, -1)[:, :1]  # equal in all hypotheses
    else:
        seen = visible.view(prompts, rows // prompts, 1, tokens)
        seen = seen.expand(-1, -1, heads // groups, -1).flatten(1)
    out, lse = cache.backend.attend(q, entries, layout, seen, scale)
    out = out.unflatten(2, (rows // prompts, -1)).transpose(1, 2)  # (B, K, G, M, e)
    lse = lse.unflatten(2, (rows // prompts, -1)).transpose(1, 2)
    return out.reshape(rows, heads, tokens, -1), lse.reshape(rows, heads, tokens)


def attend_to_suffix(
    q: Tensor, cache: KVCache, visible: Tensor, running: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention of each row over its suffix.

    Args:
        q: queries in the space of the entries' keys, ``(N, H, L, d)``.
        cache: the suffix and its back-end.
        visible: suffix entries that a query sees, ``(N, L)``.
        running: running entry of each query, ``(N, G, L, w)``, if the visible entries
            do not include it; None: they do.
        scale: factor of the scores.

    Returns:
        Output ``(N, H, L, e)`` and log-sum-exp ``(N, H, L)``.
    """
    (rows, heads, tokens, _), layout = q.shape, cache.layout
    per_group = heads // layout.heads
    q = q.reshape(rows, layout.heads, per_group * tokens, -1)  # (N, G, M, d)
    seen = visible if tokens == 1 else visible.repeat(1, per_group)
    out, lse = cache.backend.attend(q, cache.suffix_entries(), layout, seen, scale)
    if running is not None:
        out, lse = _merge_running(q, running, out, lse, cache.backend, layout, scale)
    return out.reshape(rows, heads, tokens, -1), lse.reshape(rows, heads, tokens)


def _merge_running(
    q: Tensor,
    running: Tensor,
    out: Tensor,
    lse: Tensor,
    backend: DecodeBackend,
    layout: EntryLayout,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Merge one more entry a query into the attention.

    The attention over that entry alone has the entry's value as its output and the
    score as its log-sum-exp.
    """
    running = running.repeat(1, 1, q.size(2) // running.size(2), 1)  # (N, G, M, w)
    score = ((q * layout.keys(running)).sum(-1) * scale).to(lse.dtype)
    out = backend.merge(layout.values(running).to(out.dtype), score, out, lse)
    return out, torch.logaddexp(score, lse)


def attend_to_window(
    q: Tensor, cache: KVCache, window: WindowPlacement, ring: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention over raw tokens and the merged chunks of the suffix.

    Args:
        q: queries in the space of the entries' keys, ``(N, H, L, d)``.
        cache: suffix and tail, and their back-end.
        window: what each query sees.
        ring: raw entries that ``window.hidden`` refers to, ``(N, G, S, w)``.
        scale: factor of the scores.

    Returns:
        Output ``(N, H, L, e)`` and log-sum-exp ``(N, H, L)``.
    """
    assert cache.raw is not None, "a cache with a window has raw entries"
    layout, merge = cache.layout, cache.backend.merge
    # The ring comes first: every query sees at least its own token there, and one of
    # the two log-sum-exps that ``merge`` gets must be finite.
    out, lse = attend_masked(q, ring, layout, window.hidden, scale)
    if window.sees_tail and cache.raw.tail.size(2) > 0:
        tail = cache.raw.tail_entries()
        seen = window.in_tail
        part, part_lse = attend_to_prompt(q, tail, layout, cache, scale, seen)
        out, lse = merge(part, part_lse, out, lse), torch.logaddexp(part_lse, lse)
    if window.sees_suffix:
        part, part_lse = attend_to_suffix(q, cache, window.in_suffix, None, scale)
        out, lse = merge(part, part_lse, out, lse), torch.logaddexp(part_lse, lse)
    return out, lse

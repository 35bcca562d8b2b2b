"""Attention in training: all queries of a row at once, over its entries.

What is saved for the backward grows linearly with the length of a row. If the queries
are all tokens of the row, a flash kernel runs (:mod:`.kernel_choice`). Otherwise, and
for dropout on CPUs, the loop of :mod:`.blocked` runs, and for few scores one call with
a mask (:mod:`.dense`).

Letters: ``B`` rows, ``H`` query heads, ``G`` heads of the entries, ``T`` tokens, ``U``
queries, ``S`` entries, ``d`` key width, ``e`` value width, ``w`` width of an entry.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.training.dense import (
    MOST_SCORES,
    attend_dense,
    attend_dense_window,
    first,
)
from espnet_mtla.attention.training.flex import attend_flex
from espnet_mtla.attention.training.kernel_choice import (
    BLOCKED,
    FLEX,
    choose_kernel,
    is_automatic,
)
from espnet_mtla.attention.training.operators import prefix_attention, strided_attention
from espnet_mtla.attention.training.window_operators import windowed_attention
from espnet_mtla.attention.training.windowed import first_raw_token, merged_chunks
from espnet_mtla.errors import UserError

WITH_GROUPS = {"cpu_flash", "cuda_flash"}
"""Kernels of PyTorch in which several query heads can share a key head."""
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
    WITH_GROUPS.remove("cpu_flash")


def attend_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_index: Tensor | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """Compute MHA, GQA or MQA: the query at index i of its row sees tokens 0 to i.

    Args:
        q: ``(B, H, U, d)``.
        k: ``(B, G, T, d)``; G divides H.
        v: ``(B, G, T, e)``.
        query_index: index of each query, ``(B or 1, U)``; None: query i is token i.
        scale: factor of the scores.
        dropout: probability of dropping a weight.

    Returns:
        ``(B, H, U, e)``.
    """
    visible, kernel = _index(q, query_index) + 1, choose_kernel(q, dropout)
    causal = query_index is None and kernel != BLOCKED
    if not causal and not _few_scores(q, k.size(2)):
        return attend_prefix(q, k, v, visible, scale, dropout)
    seen = None if causal else first(visible, k.size(2)).unsqueeze(1)
    grouped = k.size(1) != q.size(1)
    if grouped and kernel not in WITH_GROUPS:
        # PyTorch would fall back to matrix products, which save all scores.
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(  # PyTorch chooses the kernel
        q, k, v, seen, dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def attend_prefix(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, dropout: float
) -> Tensor:
    """Compute attention in which each query sees a prefix of the keys.

    Args:
        q: ``(B, H, U, d)``.
        k: ``(B, G, S, d)``; G divides H.
        v: ``(B, G, S, e)``.
        visible: number of keys that query u of row b sees, ``(B or 1, U)``; the output
            is 0 for 0 keys.
        scale: factor of the scores.
        dropout: probability of dropping a weight.

    Returns:
        ``(B, H, U, e)``.
    """
    q, k, v = _autocast(q, k, v)
    return prefix_attention(q, k, v, visible, _seed(dropout), scale, dropout)[0]


def attend_latents(
    q: Tensor,
    entries: Tensor,
    weight: Tensor,
    query_index: Tensor | None,
    stride: int,
    scale: float,
    dropout: float,
    offset: int = 0,
) -> Tensor:
    """Compute MLA or MTLA: a query sees finished chunks and its own running chunk.

    Args:
        q: ``(B, H, U, d)``.
        entries: running entry of each token, latent then rotary key, ``(B, T, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        query_index: index of each query, ``(B or 1, U)``; None: query i is token i.
        stride: tokens of a chunk.
        scale: factor of the scores.
        dropout: probability of dropping a weight.
        offset: tokens that the first chunk lacks.

    Returns:
        ``(B, H, U, e)``.
    """
    q, entries, weight = _autocast(q, entries, weight)
    finished = entries[:, stride - 1 - offset :: stride]
    running = entries if query_index is None else gather_tokens(entries, query_index)
    if stride == 1:  # the running chunk is finished: it is among the others
        running = entries[:, :0]
    kernel, index = choose_kernel(q, dropout), _index(q, query_index)
    index = index + offset if offset else index
    before = index // stride if stride > 1 else index + 1
    # Flash kernels support one mask, the causal one of all tokens in order.
    slow = query_index is not None or kernel == BLOCKED
    if slow and _few_scores(q, finished.size(1) + running.size(1)):
        return attend_dense(q, finished, running, weight, before, scale, dropout)
    tensors = (q.transpose(1, 2), finished, running, weight)
    if kernel == FLEX:
        return attend_flex(*tensors, before, stride, scale).transpose(1, 2)
    if query_index is None:
        visible, indexed = (index + 1) // stride, False
    else:
        kernel, visible, indexed = BLOCKED, before, True
    settings = (kernel, stride, indexed, scale, dropout, offset)
    out, *_ = strided_attention(*tensors, visible, _seed(dropout), *settings)
    return out.transpose(1, 2)


def attend_window(
    q: Tensor,
    running: Tensor,
    raw: Tensor,
    weight: Tensor,
    query_index: Tensor | None,
    stride: int,
    offset: int,
    window: int,
    scale: float,
    dropout: float,
) -> Tensor:
    """Compute MTLA with a raw window: merged chunks, then the newest tokens unmerged.

    Args:
        q: ``(B, H, U, d)``.
        running: running entry of each token, latent then rotary key, ``(B, T, w)``.
        raw: unmerged entry of each token, ``(B, T, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        query_index: index of each query, ``(B or 1, U)``; None: query i is token i.
        stride: tokens of a chunk.
        offset: tokens that the first chunk lacks.
        window: newest tokens that are seen unmerged, at least 1.
        scale: factor of the scores.
        dropout: probability of dropping a weight.

    Returns:
        ``(B, H, U, e)``.

    Raises:
        UserError: FlexAttention is requested, which has no raw window.
    """
    q, running, raw, weight = _autocast(q, running, raw, weight)
    finished = running[:, stride - 1 - offset :: stride]
    kernel, index = choose_kernel(q, dropout), _index(q, query_index)
    if kernel == FLEX:
        raise UserError("training kernel: flex has no raw_window; use auto")
    indexed = query_index is not None
    slow = indexed or kernel == BLOCKED
    if slow and _few_scores(q, finished.size(1) + raw.size(1)):
        merged = merged_chunks(index, stride, offset, window)
        seen = (merged, first_raw_token(merged, stride, offset), index)
        return attend_dense_window(q, finished, raw, weight, seen, scale, dropout)
    settings = (BLOCKED if indexed else kernel, stride, indexed, scale, dropout)
    tensors = (q.transpose(1, 2), finished, raw, weight, index, _seed(dropout))
    out, *_ = windowed_attention(*tensors, *settings, offset, window)
    return out.transpose(1, 2)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Select tokens of each row: ``x (B or 1, T, ...)`` at ``index (B or 1, U)``.

    >>> gather_tokens(torch.tensor([[10, 11, 12]]), torch.tensor([[2, 0], [1, 1]]))
    tensor([[12, 10],
            [11, 11]])
    """
    batch = max(x.size(0), index.size(0))
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    return x.expand(batch, *x.shape[1:])[rows, index.expand(batch, -1)]


def _index(q: Tensor, query_index: Tensor | None) -> Tensor:
    if query_index is not None:
        return query_index
    return torch.arange(q.size(2), device=q.device).unsqueeze(0)


def _few_scores(q: Tensor, keys: int) -> bool:
    """Return True if one call with a mask is faster than blocks; CPUs alone."""
    few = q.size(0) * q.size(1) * q.size(2) * keys <= MOST_SCORES
    return few and q.device.type == "cpu" and is_automatic()


def _seed(dropout: float) -> Tensor:
    """Draw a seed for dropout from PyTorch's CPU generator, ``(1,)``."""
    return torch.randint(2**62, (1,)) if dropout > 0 else torch.zeros(1).long()


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as autocast casts the inputs of matrix products; float64 stays."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.dtype != torch.float64 else x for x in tensors)

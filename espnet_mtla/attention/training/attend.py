"""Attention in training: all queries of a row at once, over its entries.

Nothing kept for the backward grows with the square of a row's length. Which kernel
runs is told in :mod:`.flash`; queries that are not simply all tokens of the row, and
dropout on CPUs, go through :mod:`.blocked`, and where they are few through
:mod:`.dense`.

Letters: ``B`` rows, ``H`` query heads, ``G`` heads of the entries, ``T`` tokens, ``U``
queries, ``S`` entries, ``d`` key width, ``e`` value width, ``w`` width of an entry.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.attention.training.dense import MOST_SCORES, attend_dense, first
from espnet_mtla.attention.training.flash import (
    BLOCKED,
    FLEX,
    choose_kernel,
    leaves_choice,
)
from espnet_mtla.attention.training.flex import attend_flex
from espnet_mtla.attention.training.operators import prefix_attention, strided_attention

KNOW_GROUPS = {"cpu_flash", "cuda_flash"}
"""Kernels of PyTorch in which several query heads read one key head."""
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
    KNOW_GROUPS.remove("cpu_flash")


def attend_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_index: Tensor | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """MHA, GQA, MQA: the token of rank i sees tokens 0 to i.

    Args:
        q: ``(B, H, U, d)``; k: ``(B, G, T, d)``; v: ``(B, G, T, e)``, G divides H.
        rank: of each query, ``(B or 1, U)``; None: query i is token i.

    Returns:
        ``(B, H, U, e)``.
    """
    visible, kernel = _index(q, query_index) + 1, choose_kernel(q, dropout)
    causal = query_index is None and kernel != BLOCKED
    if not causal and not _few_scores(q, k.size(2)):
        return attend_prefix(q, k, v, visible, scale, dropout)
    seen = None if causal else first(visible, k.size(2)).unsqueeze(1)
    grouped = k.size(1) != q.size(1)
    if grouped and kernel not in KNOW_GROUPS:
        # PyTorch would take its own plain arithmetic, which keeps all scores.
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(  # PyTorch chooses
        q, k, v, seen, dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def attend_prefix(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, dropout: float
) -> Tensor:
    """Query u of row b sees the first ``visible[b, u]`` entries.

    Args:
        q: ``(B, H, U, d)``; k: ``(B, G, S, d)``; v: ``(B, G, S, e)``, G divides H.
        visible: ``(B or 1, U)``; where it is 0 the output is 0.

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
) -> Tensor:
    """MLA and MTLA: finished chunks of ``stride`` tokens and one's own running chunk.

    Args:
        q: ``(B, H, U, d)``.
        entries: running entry of each token, latent then rotary key, ``(B, T, w)``.
        weight: expands latents to heads, ``(H (d_N + e), r)``.
        rank: of each query in its row, ``(B or 1, U)``; None: query i is token i.

    Returns:
        ``(B, H, U, e)``.
    """
    q, entries, weight = _autocast(q, entries, weight)
    finished = entries[:, stride - 1 :: stride]
    running = entries if query_index is None else gather_tokens(entries, query_index)
    if stride == 1:  # a token's own chunk is finished
        running = entries[:, :0]
    kernel, index = choose_kernel(q, dropout), _index(q, query_index)
    before = index // stride if stride > 1 else index + 1
    slow = (
        query_index is not None or kernel == BLOCKED
    )  # flash kernels know one mask: causal
    if slow and _few_scores(q, finished.size(1) + running.size(1)):
        return attend_dense(q, finished, running, weight, before, scale, dropout)
    given = (q.transpose(1, 2), finished, running, weight)
    if kernel == FLEX:
        return attend_flex(*given, before, stride, scale).transpose(1, 2)
    if query_index is None:
        visible, indexed = (index + 1) // stride, False
    else:
        kernel, visible, indexed = BLOCKED, before, True
    settings = (kernel, stride, indexed, scale, dropout)
    out, *_ = strided_attention(*given, visible, _seed(dropout), *settings)
    return out.transpose(1, 2)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """``x (B or 1, T, ...)`` at ``index (B or 1, U)`` of its second dimension."""
    batch = max(x.size(0), index.size(0))
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    return x.expand(batch, *x.shape[1:])[rows, index.expand(batch, -1)]


def _index(q: Tensor, query_index: Tensor | None) -> Tensor:
    if query_index is not None:
        return query_index
    return torch.arange(q.size(2), device=q.device).unsqueeze(0)


def _few_scores(q: Tensor, keys: int) -> bool:
    """Whether one call with a mask is quicker than blocks; measured on CPUs."""
    few = q.size(0) * q.size(1) * q.size(2) * keys <= MOST_SCORES
    return few and q.device.type == "cpu" and leaves_choice()


def _seed(dropout: float) -> Tensor:
    """What dropout draws from: one number of PyTorch's CPU generator."""
    return torch.randint(2**62, (1,)) if dropout > 0 else torch.zeros(1).long()


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as the matrix products of an autocast region would be."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.dtype != torch.float64 else x for x in tensors)

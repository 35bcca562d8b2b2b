"""Attention over merged latents through FlexAttention: one call for all queries.

The stride-aware mask is a block mask, so that no mask is stored even if queries see
different numbers of chunks in each row (a fixed prompt). Autograd differentiates the
merge of the running chunk, which keeps the expanded heads in memory.

Letters as in :mod:`.strided`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.training.dense import expand


def attend_flex(
    q: Tensor,
    finished: Tensor,
    running: Tensor,
    weight: Tensor,
    visible: Tensor,
    stride: int,
    scale: float,
) -> Tensor:
    """Compute ``(B, U, H, e)``; arguments are those of :class:`.StridedAttention`."""
    sizes = (weight, q.size(2), q.size(-1))
    keys, values = expand(finished, *sizes)
    out, lse = _flex(q.transpose(1, 2), keys, values, visible, scale)
    out, lse = out.transpose(1, 2), lse.mT.unsqueeze(-1)
    if stride == 1:
        return out
    running_keys, running_values = (x.transpose(1, 2) for x in expand(running, *sizes))
    score = (q.to(lse) * running_keys).sum(-1, keepdim=True) * scale
    total = torch.logaddexp(lse, score)
    share = (score - total).exp().to(q.dtype)
    return out * (lse - total).exp().to(q.dtype) + running_values * share


def _flex(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute output and log-sum-exp; a query that sees no key gets 0 and -inf."""
    rows = visible.size(0)

    def seen(b: Tensor, h: Tensor, u: Tensor, s: Tensor) -> Tensor:
        del h
        # Indexed by tensors alone: before PyTorch 2.9 a number among them fails.
        return s < visible[b * int(rows > 1), u]

    flex, make_mask = _compiled(q.device.type)
    mask = make_mask(
        seen, rows if rows > 1 else None, None, q.size(2), k.size(2), device=q.device
    )
    try:
        from torch.nn.attention.flex_attention import AuxRequest
    except ImportError:  # before PyTorch 2.9
        return flex(q, k, v, block_mask=mask, scale=scale, return_lse=True)
    aux = AuxRequest(lse=True)
    out, extra = flex(q, k, v, block_mask=mask, scale=scale, return_aux=aux)
    return out, extra.lse


@functools.cache
def _compiled(device: str) -> tuple[Any, Any]:
    """Return FlexAttention and the maker of its masks, compiled for GPUs.

    Uncompiled, as on CPUs, it computes dense scores.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if device != "cuda":
        return flex_attention, create_block_mask
    return torch.compile(flex_attention), torch.compile(create_block_mask)

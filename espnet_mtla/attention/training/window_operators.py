"""The operator of attention with a raw window, and its gradient.

See :mod:`.operators`, which has those without a window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.training.operators import (
    differentiate,
    no_autocast,
    save_for_backward,
)
from espnet_mtla.attention.training.windowed import WindowedAttention, merged_chunks


@torch.library.custom_op("espnet_mtla::windowed_attention", mutates_args=())
def windowed_attention(
    q: Tensor,
    finished: Tensor,
    raw: Tensor,
    weight: Tensor,
    index: Tensor,
    seed: Tensor,
    kernel: str,
    stride: int,
    indexed: bool,
    scale: float,
    dropout: float,
    offset: int,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call :meth:`.WindowedAttention.forward`; the arguments are those of the class."""
    settings = (kernel, stride, indexed, scale, dropout, offset, window)
    call = _call(q, finished, raw, weight, index, seed, *settings)
    with no_autocast(q):
        return call.forward()


@torch.library.custom_op("espnet_mtla::windowed_attention_backward", mutates_args=())
def windowed_attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    states: Tensor,
    q: Tensor,
    finished: Tensor,
    raw: Tensor,
    weight: Tensor,
    index: Tensor,
    seed: Tensor,
    kernel: str,
    stride: int,
    indexed: bool,
    scale: float,
    dropout: float,
    offset: int,
    window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call :meth:`.WindowedAttention.backward`.

    Args: gradient of the output, the outputs of the forward, and its inputs.
    """
    settings = (kernel, stride, indexed, scale, dropout, offset, window)
    call = _call(q, finished, raw, weight, index, seed, *settings)
    with no_autocast(q):
        return call.backward(grad, out, lse, states)


def _call(
    q: Tensor,
    finished: Tensor,
    raw: Tensor,
    weight: Tensor,
    index: Tensor,
    seed: Tensor,
    *settings: Any,
) -> WindowedAttention:
    kernel, stride, indexed, scale, dropout, offset, window = settings
    return WindowedAttention(
        q,
        finished,
        raw,
        weight,
        visible=merged_chunks(index, stride, offset, window),
        seed=seed,
        kernel=kernel,
        stride=stride,
        indexed=indexed,
        scale=scale,
        dropout=dropout,
        offset=offset,
        index=index,
        window=window,
    )


@windowed_attention.register_fake
def _shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _call(*inputs).empty_results()


@windowed_attention_backward.register_fake
def _gradients(
    grad: Tensor, out: Tensor, lse: Tensor, states: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    del grad, out, lse, states
    return tuple(torch.empty_like(x) for x in inputs[:4])


def _backward(
    ctx: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused  # of log-sum-exp and random states, which are not differentiable
    return differentiate(windowed_attention_backward, ctx, grad)


windowed_attention.register_autograd(_backward, setup_context=save_for_backward)

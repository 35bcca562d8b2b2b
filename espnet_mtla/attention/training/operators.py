"""The arithmetic of training as PyTorch operators, with their gradients.

As operators they are one node each for ``torch.compile`` and for activation
checkpointing, whatever the row's length. They can be differentiated once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.precision import accumulation_dtype
from espnet_mtla.attention.training.blocked import Blocked
from espnet_mtla.attention.training.flash import BLOCKED
from espnet_mtla.attention.training.strided import StridedAttention


def _as_it_is(q: Tensor) -> torch.autocast:
    """Inside, types are settled: products in float32 must not be cast once more."""
    return torch.autocast(q.device.type, enabled=False)


@torch.library.custom_op("espnet_mtla::strided_attention", mutates_args=())
def strided_attention(
    q: Tensor,
    finished: Tensor,
    running: Tensor,
    weight: Tensor,
    visible: Tensor,
    seed: Tensor,
    kernel: str,
    stride: int,
    indexed: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`StridedAttention.forward`; the arguments are those of the class."""
    call = StridedAttention(
        q,
        finished,
        running,
        weight,
        visible,
        seed,
        kernel,
        stride,
        indexed,
        scale,
        dropout,
    )
    with _as_it_is(q):
        return call.forward()


@torch.library.custom_op("espnet_mtla::strided_attention_backward", mutates_args=())
def strided_attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    states: Tensor,
    q: Tensor,
    finished: Tensor,
    running: Tensor,
    weight: Tensor,
    visible: Tensor,
    seed: Tensor,
    kernel: str,
    stride: int,
    indexed: bool,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:meth:`StridedAttention.backward`."""
    call = StridedAttention(
        q,
        finished,
        running,
        weight,
        visible,
        seed,
        kernel,
        stride,
        indexed,
        scale,
        dropout,
    )
    with _as_it_is(q):
        return call.backward(grad, out, lse, states)


@torch.library.custom_op("espnet_mtla::prefix_attention", mutates_args=())
def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """:meth:`Blocked.forward`."""
    with _as_it_is(q):
        return Blocked(visible, scale, dropout, seed).forward(q, k, v)


@torch.library.custom_op("espnet_mtla::prefix_attention_backward", mutates_args=())
def prefix_attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`Blocked.backward`."""
    blocked = Blocked(visible, scale, dropout, seed)
    with _as_it_is(q):
        return blocked.backward(grad, (q, k, v), (out, lse))


# Shapes, for tracing -----------------------------------------------------------------


@strided_attention.register_fake
def _strided_shapes(q: Tensor, finished: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weight, kernel, stride = rest[1], rest[4], rest[5]
    nope = q.size(-1) - (finished.size(-1) - weight.size(1))
    width = weight.size(0) // q.size(2) - nope
    out = q.new_empty(*q.shape[:3], width)
    lse = q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))
    calls = 1 if kernel == BLOCKED else stride
    return out, lse, q.new_empty((calls, 2), dtype=torch.int64)


@strided_attention_backward.register_fake
def _strided_gradients(*args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in args[4:8])


@prefix_attention.register_fake
def _prefix_shapes(
    q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    del k, rest
    batch, heads, queries, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.size(-1)).transpose(1, 2)
    return out, q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))


@prefix_attention_backward.register_fake
def _prefix_gradients(*args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in args[3:6])


# Gradients ---------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Tensors go where autograd's hooks and checkpoints see them."""
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.settings = inputs[len(tensors) :]
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _strided_backward(
    context: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused
    if grad is None:  # nobody used the output
        return (None,) * 11
    gradients = strided_attention_backward(
        grad, *context.saved_tensors, *context.settings
    )
    return (*gradients, *[None] * 7)


def _prefix_backward(
    context: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused
    if grad is None:
        return (None,) * 7
    gradients = prefix_attention_backward(
        grad, *context.saved_tensors, *context.settings
    )
    return (*gradients, *[None] * 4)


strided_attention.register_autograd(_strided_backward, setup_context=_keep)
prefix_attention.register_autograd(_prefix_backward, setup_context=_keep)

"""The arithmetic of training as PyTorch operators, with their gradients.

As operators they are one node each for ``torch.compile`` and for activation
checkpointing, whatever the row's length. They can be differentiated once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.training.blocked import Blocked, exact
from espnet_mtla.attention.training.flash import BLOCKED
from espnet_mtla.attention.training.strided import StridedAttention


def _as_it_is(q: Tensor) -> torch.autocast:
    """Inside, types are settled: products in float32 must not be cast once more."""
    return torch.autocast(q.device.type, enabled=False)


@torch.library.custom_op("espnet_mtla::latents", mutates_args=())
def latents(
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
        q, finished, running, weight, visible, seed, kernel, stride, indexed, scale, dropout
    )
    with _as_it_is(q):
        return call.forward()


@torch.library.custom_op("espnet_mtla::latents_backward", mutates_args=())
def latents_backward(
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
        q, finished, running, weight, visible, seed, kernel, stride, indexed, scale, dropout
    )
    with _as_it_is(q):
        return call.backward(grad, out, lse, states)


@torch.library.custom_op("espnet_mtla::counted", mutates_args=())
def counted(
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


@torch.library.custom_op("espnet_mtla::counted_backward", mutates_args=())
def counted_backward(
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


@latents.register_fake
def _latents_shapes(q: Tensor, finished: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    weight, kernel, stride = rest[1], rest[4], rest[5]
    nope = q.size(-1) - (finished.size(-1) - weight.size(1))
    width = weight.size(0) // q.size(2) - nope
    out = q.new_empty(*q.shape[:3], width)
    lse = q.new_empty(q.shape[:3], dtype=exact(q.dtype))
    calls = 1 if kernel == BLOCKED else stride
    return out, lse, q.new_empty((calls, 2), dtype=torch.int64)


@latents_backward.register_fake
def _latents_gradients(*args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in args[4:8])


@counted.register_fake
def _counted_shapes(
    q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    del k, rest
    batch, heads, queries, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.size(-1)).transpose(1, 2)
    return out, q.new_empty(q.shape[:3], dtype=exact(q.dtype))


@counted_backward.register_fake
def _counted_gradients(*args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in args[3:6])


# Gradients ---------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Tensors go where autograd's hooks and checkpoints see them."""
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.settings = inputs[len(tensors) :]
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _latents_backward(
    context: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused
    if grad is None:  # nobody used the output
        return (None,) * 11
    gradients = latents_backward(grad, *context.saved_tensors, *context.settings)
    return (*gradients, *[None] * 7)


def _counted_backward(
    context: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused
    if grad is None:
        return (None,) * 7
    gradients = counted_backward(grad, *context.saved_tensors, *context.settings)
    return (*gradients, *[None] * 4)


latents.register_autograd(_latents_backward, setup_context=_keep)
counted.register_autograd(_counted_backward, setup_context=_keep)

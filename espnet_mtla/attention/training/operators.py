"""Attention in training as PyTorch operators, with their gradients.

An operator is one node for ``torch.compile`` and for activation checkpointing, whatever
the length of the row. Each is a pair of a forward and a backward operator; the backward
has no gradient of its own, so that second derivatives are not available.

The order of arguments is that of the operators' signatures. Everything below reads them
by name, from :class:`.StridedAttention` or from a signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.precision import accumulation_dtype
from espnet_mtla.attention.training.blocked import Blocked
from espnet_mtla.attention.training.strided import StridedAttention


def no_autocast(q: Tensor) -> torch.autocast:
    """Return a context without autocast: the caller has cast the inputs already.

    Products that are computed in float32 on purpose would be cast once more.
    """
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
    offset: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Call :meth:`.StridedAttention.forward`; the arguments are those of the class."""
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
        offset,
    )
    with no_autocast(q):
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
    offset: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call :meth:`.StridedAttention.backward`.

    Args: gradient of the output, the outputs of the forward, and its inputs.
    """
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
        offset,
    )
    with no_autocast(q):
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
    """Call :meth:`.Blocked.forward`; the arguments are those of class and method."""
    with no_autocast(q):
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
    """Call :meth:`.Blocked.backward`.

    Args: gradient of the output, the outputs of the forward, and its inputs.
    """
    blocked = Blocked(visible, scale, dropout, seed)
    with no_autocast(q):
        return blocked.backward(grad, (q, k, v), (out, lse))


# Shapes and types of results, for tracing ---------------------------------------------


@strided_attention.register_fake
def _strided_shapes(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return StridedAttention(*inputs).empty_results()


@strided_attention_backward.register_fake
def _strided_gradients(
    grad: Tensor, out: Tensor, lse: Tensor, states: Tensor, *inputs: Any
) -> tuple[Tensor, ...]:
    del grad, out, lse, states
    call = StridedAttention(*inputs)
    differentiable = (call.q, call.finished, call.running, call.weight)
    return tuple(torch.empty_like(x) for x in differentiable)


@prefix_attention.register_fake
def _prefix_shapes(
    q: Tensor, k: Tensor, v: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    del k, settings
    batch, heads, queries, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.size(-1)).transpose(1, 2)
    return out, q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))


@prefix_attention_backward.register_fake
def _prefix_gradients(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    del grad, out, lse, settings
    return tuple(torch.empty_like(x) for x in (q, k, v))


# Gradients ---------------------------------------------------------------------------


def save_for_backward(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
) -> None:
    """Save what the backward operator takes, in its order.

    ``save_for_backward`` rather than attributes: hooks on saved tensors, activation
    checkpointing and offloading then see them.
    """
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.settings = inputs[len(tensors) :]  # signatures have the tensors first
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.num_inputs = len(inputs)


def differentiate(
    backward: Callable[..., tuple[Tensor, ...]], ctx: Any, grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return gradients of all inputs; None for those that have none."""
    if grad is None:  # the loss does not depend on the output
        return (None,) * ctx.num_inputs
    gradients = backward(grad, *ctx.saved_tensors, *ctx.settings)
    return (*gradients, *[None] * (ctx.num_inputs - len(gradients)))


def _strided_backward(
    ctx: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused  # of log-sum-exp and random states, which are not differentiable
    return differentiate(strided_attention_backward, ctx, grad)


def _prefix_backward(
    ctx: Any, grad: Tensor | None, *unused: None
) -> tuple[Tensor | None, ...]:
    del unused
    return differentiate(prefix_attention_backward, ctx, grad)


strided_attention.register_autograd(_strided_backward, setup_context=save_for_backward)
prefix_attention.register_autograd(_prefix_backward, setup_context=save_for_backward)

"""The matrix of a linear layer, also if an adapter or quantisation has changed it.

Adapters (LoRA), parametrisations, pruning, quantisation and offloading change what a
layer computes, but its ``weight`` may not show that. Code that needs the matrix itself
reads it here. For a plain ``nn.Linear`` it is the weight. For any other module it is
the module's output for the unit vectors, which costs as much as a call with ``width``
tokens.

Dropout inside such a module (LoRA has one) then drops features of all tokens together.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from espnet_mtla.attention.overrides import is_plain
from espnet_mtla.attention.precision import accumulation_dtype
from espnet_mtla.errors import UserError


class PlainLinear(nn.Module):
    """Base class of modules that compute ``x @ weight.T + bias`` by other kernels."""

    weight: Tensor
    bias: Tensor | None


def is_plain_linear(
    module: nn.Module | None,
) -> TypeGuard[nn.Linear | PlainLinear]:
    """Return True if the output is ``x @ weight.T + bias`` of dense tensors."""
    if is_plain(module, nn.Linear) or isinstance(module, PlainLinear):
        # Quantised and distributed weights are subclasses of Tensor.
        return type(module.weight) in (nn.Parameter, Tensor)
    return False


def linear_matrix(linear: nn.Module, width: int, like: Tensor, name: str) -> Tensor:
    """Return the matrix ``(out, width)`` by which ``linear`` multiplies its input.

    Gradients flow to the parameters that it is computed from. The bias is left out.

    Args:
        linear: a plain ``nn.Linear``, or any module that is linear except for a bias.
        width: of its input.
        like: gives dtype and device of the input.
        name: of the layer in its parent, for the error message.

    Raises:
        UserError: the module does not multiply all tokens by one matrix.
    """
    if is_plain_linear(linear):
        return linear.weight
    # Inputs: the unit vectors; 0, which gives the bias; and the sum of every second
    # unit vector, to check linearity. Quantised activations represent them exactly.
    probe = torch.zeros(width + 2, width, dtype=like.dtype, device=like.device)
    probe.fill_diagonal_(1.0)
    probe[width + 1, ::2] = 1.0
    try:
        out = linear(probe.unsqueeze(0)).squeeze(0).to(like.dtype)
    except (IndexError, TypeError, ValueError) as error:  # an adapter for each row, say
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name}: {type(linear).__name__} gives no one matrix for all tokens "
            f"({reason}); leave {name} out of its targets"
        ) from error
    rows = out[:width] - out[width]
    if _can_check(linear, out):
        _check_linear(rows, out[width], out[width + 1], linear, name)
    return rows.mT


def _can_check(linear: nn.Module, out: Tensor) -> bool:
    """Return True if the output's values can be read and are not random."""
    if torch.compiler.is_compiling() or out.is_meta:
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    return not any(
        isinstance(part, nn.Dropout) and part.training and part.p > 0
        for part in linear.modules()
    )


@torch.no_grad()
def _check_linear(
    rows: Tensor, bias: Tensor, total: Tensor, linear: nn.Module, name: str
) -> None:
    """Require that the output of a sum of unit vectors is the sum of their outputs."""
    eps = torch.finfo(rows.dtype).eps
    exact = accumulation_dtype(rows.dtype)
    rows, bias, total = rows[::2].to(exact), bias.to(exact), total.to(exact)
    error = (rows.sum(0) + bias - total).norm()
    size = rows.norm() + bias.norm() * len(rows) ** 0.5
    if error > size * eps**0.5:
        raise UserError(
            f"{name}: {type(linear).__name__} gives no one matrix for all tokens, as "
            f"attention over latents needs; leave {name} out of its targets"
        )

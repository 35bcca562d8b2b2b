"""Linear layers whose weights are laid out once for many small products on a CPU.

A step multiplies some dozens of rows by each weight. MKL lays a weight out anew each
time; oneDNN takes one that is laid out already: a fifth less time at 80 rows, a tenth
at 16, nothing below. Laying out all weights takes as long as half a step of 80 rows,
and as much memory as they have.
"""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

LEAST_ROWS = 16
LAID_OUT_FOR = 80
"""Rows; for fewer too, since what oneDNN lays out for 16 is slower with 16."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def packed(module: AnyModule, rows: int) -> AnyModule:
    """The module for products of ``rows`` rows, without gradients; parameters shared.

    It is a twin with packed linear layers where these pay, else the module itself.
    """
    weight = next(module.parameters())
    fit = weight.device.type == "cpu" and weight.dtype == torch.float32
    fit = fit and torch.backends.mkldnn.is_available()
    if not fit or rows < LEAST_ROWS or torch.is_grad_enabled():
        return module
    return cast("AnyModule", _twin(module))


def _twin(module: nn.Module) -> nn.Module:
    if type(module) is nn.Linear:
        return _PackedLinear(module)
    twin = copy.copy(module)
    twin._modules = {
        name: None if child is None else _twin(child)
        for name, child in module._modules.items()
    }
    return twin


class _PackedLinear(nn.Module):
    """Packs its weight at the first call: not all are called."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(
                self.weight, LAID_OUT_FOR
            )
        return torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )

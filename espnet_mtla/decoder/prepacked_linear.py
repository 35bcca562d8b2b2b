"""Linear layers whose weights are laid out once for many small products on a CPU.

A step multiplies some dozens of rows by each weight. MKL lays a weight out anew each
time; oneDNN takes one that is laid out already: a fifth less time at 80 rows, a tenth
at 16, nothing below. Laying out all weights takes as long as half a step of 80 rows,
and as much memory as they have.
"""

from __future__ import annotations

from typing import TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

from espnet_mtla.attention.linear import PlainLinear, is_plain_linear

LEAST_ROWS = 16
LAID_OUT_FOR = 80
"""Rows; for fewer too, since what oneDNN lays out for 16 is slower with 16."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def packed(module: AnyModule, rows: int) -> AnyModule:
    """The module for products of ``rows`` rows, without gradients; parameters shared.

    It is a twin with packed linear layers where these pay, else the module itself.
    """
    fit = _fits(next(module.parameters())) and torch.backends.mkldnn.is_available()
    if not fit or rows < LEAST_ROWS or torch.is_grad_enabled():
        return module
    return cast("AnyModule", _twin(module))


def _can_pack(module: nn.Module) -> TypeGuard[nn.Linear | PlainLinear]:
    """Return True for linear layers that are no more than a float32 weight here."""
    return is_plain_linear(module) and _fits(module.weight)


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _twin(module: nn.Module) -> nn.Module:
    if _can_pack(module):
        return _PackedLinear(module)
    if not any(_can_pack(part) for part in module.modules()):
        return module
    twin = object.__new__(type(module))  # parametrised modules refuse copy.copy
    twin.__dict__ = dict(module.__dict__)
    twin._modules = {
        name: None if child is None else _twin(child)
        for name, child in module._modules.items()
    }
    return twin


class _PackedLinear(PlainLinear):
    """Packs its weight at the first call, and again where the weight has changed."""

    def __init__(self, linear: nn.Linear | PlainLinear) -> None:
        super().__init__()
        self._parameters = linear._parameters  # sees parameters that are replaced
        self.packed: Tensor | None = None
        self.source: Tensor | None = None  # kept, so that its address is not used anew
        self.version: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        source = self.source
        if self.packed is None or source is None or self._has_changed(source):
            self.source, self.version = self.weight.detach(), _version(self.weight)
            self.packed = torch.ops.mkldnn._reorder_linear_weight(
                self.source, LAID_OUT_FOR
            )
        return torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )

    def _has_changed(self, source: Tensor) -> bool:
        """Return True if the weight was replaced or written to, but by ``.data``."""
        moved = self.weight.data_ptr() != source.data_ptr()
        return moved or _version(self.weight) != self.version


def _version(weight: Tensor) -> int | None:
    """Number of writes to a tensor; None for those that do not count them."""
    return None if weight.is_inference() else weight._version

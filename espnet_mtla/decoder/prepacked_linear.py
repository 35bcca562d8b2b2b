"""Linear layers with prepacked weights, for many small products on a CPU.

A decoding step multiplies some dozens of rows by each weight. MKL rearranges the weight
for its kernel in every product; oneDNN accepts one that was rearranged before. This
saves a fifth of the time at 80 rows, a tenth at 16 and nothing below. Prepacking all
weights takes as long as half a step of 80 rows, and as much memory as the weights.
"""

from __future__ import annotations

from typing import TypeGuard, TypeVar, cast

import torch
from torch import Tensor, nn

from espnet_mtla.attention.linear import PlainLinear, is_plain_linear

LEAST_ROWS = 16
LAID_OUT_FOR = 80
"""Rows for which oneDNN arranges a weight. Arranged for 16, it is slower at 16."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def prepack_linears(module: AnyModule, rows: int) -> AnyModule:
    """Return a copy of the module with prepacked linear layers, for inference.

    The copy shares all parameters. The module itself is returned if prepacking does not
    pay or is not supported: fewer than 16 rows, not float32, not on a CPU, with
    gradients, or prepacked already.

    Args:
        module: its linear layers get ``rows`` rows in every call.
        rows: hypotheses of all utterances together.
    """
    weight = next(module.parameters())
    supported = _is_supported(weight) and torch.backends.mkldnn.is_available()
    if not supported or rows < LEAST_ROWS or torch.is_grad_enabled():
        return module
    return cast("AnyModule", _copy(module))


def _can_prepack(module: nn.Module) -> TypeGuard[nn.Linear | PlainLinear]:
    """Return True for unmodified linear layers with a float32 weight on a CPU."""
    if isinstance(module, _PrepackedLinear):
        return False
    return is_plain_linear(module) and _is_supported(module.weight)


def _is_supported(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _copy(module: nn.Module) -> nn.Module:
    """Copy the modules that contain linear layers, and replace these."""
    if _can_prepack(module):
        return _PrepackedLinear(module)
    if not any(_can_prepack(part) for part in module.modules()):
        return module
    copied = object.__new__(type(module))  # parametrised modules refuse copy.copy
    copied.__dict__ = dict(module.__dict__)
    copied._modules = {
        name: None if child is None else _copy(child)
        for name, child in module._modules.items()
    }
    return copied


class _PrepackedLinear(PlainLinear):
    """A linear layer that prepacks its weight in the first call.

    It does so again if the weight is replaced or written to in between.
    """

    def __init__(self, linear: nn.Linear | PlainLinear) -> None:
        super().__init__()
        self._parameters = linear._parameters  # the dictionary: replacements are seen
        self.packed: Tensor | None = None
        self.source: Tensor | None = None  # held, so that its address is not reused
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
        """Return True if the weight was replaced or written to.

        A write through ``weight.data`` is not noticed.
        """
        moved = self.weight.data_ptr() != source.data_ptr()
        return moved or _version(self.weight) != self.version


def _version(weight: Tensor) -> int | None:
    """Return the number of writes to a tensor; None if it does not count them."""
    return None if weight.is_inference() else weight._version

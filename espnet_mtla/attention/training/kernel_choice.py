"""Which kernel computes attention in training: one by name, or the first that can.

The kernels are those of :mod:`.flash`, the blocked loop and FlexAttention.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.training.flash import KERNELS
from espnet_mtla.errors import UserError
from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCKED = "blocked"
"""The loop over blocks of queries of :mod:`.blocked`: any device, with dropout."""

FLEX = "flex"
"""FlexAttention (:mod:`.flex`): GPUs, without dropout; ``auto`` never chooses it."""

_requested = "auto"
_lock = Turns()
_logged: set[str] = set()


@contextmanager
def training_kernel(name: str) -> Iterator[None]:
    """Use one kernel inside the context: a name of :data:`.KERNELS` or of this module.

    The choice holds for the whole process, since a backward may run in another thread
    than its forward. A second thread that enters a context waits for the first.

    Raises:
        UserError: the name is unknown. If the kernel does not support the queries,
            training raises the error.
    """
    global _requested
    if name not in ("auto", *KERNELS, BLOCKED, FLEX):
        names = ", ".join(["auto", *KERNELS, BLOCKED, FLEX])
        raise UserError(f"training kernel: {name!r} given, one of {names} is needed")
    with _lock:
        before, _requested = _requested, name
        try:
            yield
        finally:
            _requested = before


def choose_kernel(q: Tensor, dropout: float) -> str:
    """Return the name of the requested kernel, or of the first that supports ``q``.

    Raises:
        UserError: the requested kernel does not support such queries.
    """
    if _requested == BLOCKED:
        return BLOCKED
    if _requested != "auto":
        why = _unsupported_reason(_requested, q, dropout)
        if why is not None:
            raise UserError(f"training kernel: {_requested} {why}; use auto")
        return _requested
    # A list, since PyTorch 2.7 cannot compile ``next``.
    supported = [
        name for name in KERNELS if _unsupported_reason(name, q, dropout) is None
    ]
    name = supported[0] if supported else BLOCKED
    if name not in _logged and not torch.compiler.is_compiling():
        _logged.add(name)
        logging.info("attention in training: %s for %s on %s", name, q.dtype, q.device)
    return name


def is_automatic() -> bool:
    """Return True if no kernel is requested by name."""
    return _requested == "auto"


def _unsupported_reason(name: str, q: Tensor, dropout: float) -> str | None:
    if name != FLEX:
        return KERNELS[name].unsupported_reason(q, dropout)
    if dropout > 0:
        return "has no dropout"
    return None if q.device.type == "cuda" else "is for NVIDIA GPUs"

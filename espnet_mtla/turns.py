"""Locks for code that is not thread-safe, such as modules with state of a call."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Turns:
    """A reentrant lock that can be an attribute of a module.

    A copied or unpickled module gets a new lock, because its state is separate, too.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()


CUDA = Turns()
"""Lock for decoding on a GPU and for recording a CUDA graph.

No other thread may synchronise the device while a graph is recorded, and decoding does.
Threads share the device's stream, so decoding one at a time costs almost nothing.
"""


def turn_on(device: torch.device) -> AbstractContextManager[None]:
    """Return the lock for decoding on ``device``: :data:`CUDA`, or none on a CPU."""
    return CUDA if device.type == "cuda" else nullcontext()

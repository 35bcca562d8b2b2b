"""One thread at a time, where a library keeps the state of a call for itself."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Turns:
    """A reentrant lock that a module can hold.

    A copied or unpickled module gets a lock of its own: its state is its own, too.
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
"""Held by whoever decodes on a GPU, or records a CUDA graph.

While a graph is recorded no other thread may synchronise the device, which decoding
does. Threads share a device's stream, so taking turns costs next to nothing.
"""


def turn_on(device: torch.device) -> AbstractContextManager[None]:
    """The turn to decode on ``device``: on a GPU one thread has it, else each."""
    return CUDA if device.type == "cuda" else nullcontext()

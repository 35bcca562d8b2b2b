"""Discard what libraries print while they are imported."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from espnet_mtla.turns import Turns

_TURNS = Turns()
"""``sys.stdout`` belongs to the process. Two threads that redirect it at the same time
could each restore the other's replacement, and output would stay lost."""


class _MutedThread(io.TextIOBase):
    """A stream that discards writes of its creating thread and forwards all others."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def quiet(stderr: bool = False) -> Iterator[None]:
    """Discard what this thread prints to stdout in the block, and to stderr on request.

    Only one thread at a time can be inside; others wait.
    """
    with _TURNS, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(_MutedThread(sys.stdout)))
        if stderr:
            stack.enter_context(contextlib.redirect_stderr(_MutedThread(sys.stderr)))
        yield

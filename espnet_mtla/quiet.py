"""Keep what libraries print while they load off the screen."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from espnet_mtla.turns import Turns

_TURNS = Turns()
"""``sys.stdout`` is the process's: two threads that redirect it at the same time could
each put back what the other one had put there, for ever."""


class _MutedThread(io.TextIOBase):
    """Drops what the thread that made it writes; passes on what others write."""

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
    """Drop what this thread prints meanwhile; ``stderr``: errors too.

    Other threads that want the same wait for their turn.
    """
    with _TURNS, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(_MutedThread(sys.stdout)))
        if stderr:
            stack.enter_context(contextlib.redirect_stderr(_MutedThread(sys.stderr)))
        yield

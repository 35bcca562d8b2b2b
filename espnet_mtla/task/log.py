"""Where espnet2's log lines go: all of them to a file, progress to the screen."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from espnet_mtla.logs import LOG_FORMAT, TIME_FORMAT


@contextlib.contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Append every record to ``path``; only progress and warnings reach the screen."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    if not root.handlers:  # a process of its own, started for distributed training
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt=TIME_FORMAT)
    screen = list(root.handlers)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter(LOG_FORMAT))
    root.addHandler(file)
    for handler in screen:
        handler.addFilter(is_progress)
    try:
        yield
    finally:
        for handler in screen:
            handler.removeFilter(is_progress)
        root.removeHandler(file)
        file.close()


def is_progress(record: logging.LogRecord) -> bool:
    """Whether a user wants to see it: epochs, warnings and what this package says.

    The rest is the model printed layer by layer, every option, and so on.
    """
    ours = record.name.startswith("espnet_mtla")
    return ours or record.levelno >= logging.WARNING or record.module == "trainer"

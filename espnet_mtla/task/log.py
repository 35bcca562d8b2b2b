"""Route log records of a training: all to a file, progress and warnings to stderr."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from espnet_mtla.logs import LOG_FORMAT, TIME_FORMAT


@contextlib.contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Append all records to ``path``; existing handlers get progress and warnings."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    if not root.handlers:  # a worker process of distributed training
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
    """Return True for warnings, for espnet2's trainer and for this package's records.

    Other records, such as the printed model and all options, are for the log file only.
    """
    ours = record.name.startswith("espnet_mtla")
    return ours or record.levelno >= logging.WARNING or record.module == "trainer"

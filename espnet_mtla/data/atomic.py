"""Writing so that a killed process leaves either the old state or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside ``path`` and rename it into place when the block succeeds.

    Text is UTF-8 with ``\\n`` line ends, whatever the locale.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(aside, mode, **text) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as error:
        # A write that fails, on a full disk say, does not know its file.
        error.filename = error.filename or str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that replaces it when the block succeeds.

    What was under ``path`` is gone afterwards: a stage that runs again starts clean.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # killed between the two renamings below
        os.replace(old, path)
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        # Renamed, not removed in place: a kill must not leave half of it.
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)

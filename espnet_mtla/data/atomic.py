"""Writing so that a killed process leaves either the old state or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload


@overload
def atomic_file(
    path: str | Path, mode: Literal["w"] = "w"
) -> AbstractContextManager[IO[str]]: ...


@overload
def atomic_file(
    path: str | Path, mode: Literal["wb"]
) -> AbstractContextManager[IO[bytes]]: ...


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside ``path`` and rename it into place when the block succeeds.

    Text is UTF-8 with ``\\n`` line ends, whatever the locale.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        with open(aside, mode, encoding=encoding, newline=newline) as stream:
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
    with atomic_folders([path]) as (aside,):
        yield aside


@contextmanager
def atomic_folders(paths: Iterable[str | Path]) -> Iterator[list[Path]]:
    """:func:`atomic_folder` of folders that belong together, in the order of ``paths``.

    Whenever it is killed, no old folder ever stands beside a new one: all old ones go
    before the first new one comes.
    """
    moves = []
    for path in map(Path, paths):
        aside, old = (path.with_name(f".{path.name}.{end}") for end in ("tmp", "old"))
        moves.append((path, aside, old))
    _settle(moves)
    for _, aside, _ in moves:
        aside.mkdir(parents=True)
    try:
        yield [aside for _, aside, _ in moves]
        # Renamed, not removed in place: a kill must not leave half of one.
        for path, _, old in moves:
            if path.exists():
                os.replace(path, old)
        for path, aside, _ in moves:
            os.replace(aside, path)
    finally:
        _settle(moves)


def _settle(moves: list[tuple[Path, Path, Path]]) -> None:
    """Take back a replacement that broke off, and remove what is left aside."""
    if all(aside.exists() for _, aside, _ in moves):  # no new folder is in place yet
        for path, _, old in moves:
            if old.exists() and not path.exists():
                os.replace(old, path)
    for _, *leftovers in moves:
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)

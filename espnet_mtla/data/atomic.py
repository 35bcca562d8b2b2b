"""Atomic writes: a killed process leaves either the old state or the new one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, overload

from espnet_mtla.data.lock import lock_directory


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
    """Open a temporary file and rename it to ``path`` when the block succeeds.

    Text is UTF-8 with ``\\n`` line ends, independent of the locale.
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
        # A failed write, such as on a full disk, does not name its file.
        error.filename = error.filename or str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``path`` when the block succeeds.

    The earlier contents of ``path`` are removed: a stage that runs again starts clean.
    """
    with atomic_folders([path]) as (aside,):
        yield aside


@contextmanager
def atomic_folders(paths: Iterable[str | Path]) -> Iterator[list[Path]]:
    """Replace several folders together; yield the new ones in the order of ``paths``.

    No kill leaves a mixture of old and new folders: all old ones are renamed away
    before the first new one is renamed into place.

    Raises:
        UserError: another process is writing one of them.
    """
    moves = []
    for path in map(Path, paths):
        aside, old = (path.with_name(f".{path.name}.{end}") for end in ("tmp", "old"))
        moves.append((path, aside, old))
    for path, aside, _ in moves:
        if aside.is_dir():  # of a killed process, or of one that is at work
            with lock_directory(aside, path):
                pass
    _settle(moves)
    with ExitStack() as locks:
        for path, aside, _ in moves:
            aside.mkdir(parents=True)
            locks.enter_context(lock_directory(aside, path))
        yield from _replace(moves)


def _replace(moves: list[tuple[Path, Path, Path]]) -> Iterator[list[Path]]:
    """Yield the new folders, then rename them into place."""
    try:
        yield [aside for _, aside, _ in moves]
        # Rename, not remove: a kill must not leave a partly deleted folder.
        for path, _, old in moves:
            if path.exists():
                os.replace(path, old)
        for path, aside, _ in moves:
            os.replace(aside, path)
    finally:
        _settle(moves)


def _settle(moves: list[tuple[Path, Path, Path]]) -> None:
    """Undo an interrupted replacement, and remove temporary and old folders."""
    if all(aside.exists() for _, aside, _ in moves):  # no new folder is in place yet
        for path, _, old in moves:
            if old.exists() and not path.exists():
                os.replace(old, path)
    for _, *leftovers in moves:
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)

"""Locks of output folders: two commands must not write into one folder.

The kernel holds them (``flock``). It releases a lock when the last process that
inherited it has ended, so that a killed command blocks nobody. Most network file
systems pass locks on to other machines.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from espnet_mtla.errors import UserError

LOCK = ".lock"
PATIENCE_SECONDS = 10.0
"""Workers of a killed command end a little later than it."""
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)

logger = logging.getLogger(__name__)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock ``folder``, which is created if missing, against other commands.

    Raises:
        UserError: another process has locked it, and has not ended after ten seconds.
            The message names the process.
    """
    created = not folder.exists()
    with _locked_file(folder) as stream:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        try:
            yield
        finally:
            if created and [*folder.iterdir()] == [folder / LOCK]:
                (folder / LOCK).unlink()  # a command that failed leaves no folder
                folder.rmdir()


def _locked_file(folder: Path) -> IO[str]:
    """Create the folder and its lock file if they are missing, and lock the file."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            _acquire(stream.fileno(), folder, stream)
            # The command that had the lock may have removed the file.
            if os.path.samestat(os.fstat(stream.fileno()), os.stat(folder / LOCK)):
                return stream
        except FileNotFoundError:
            pass
        except BaseException:
            stream.close()
            raise
        stream.close()


@contextmanager
def lock_directory(folder: Path, place: Path) -> Iterator[None]:
    """Lock an existing folder by itself, without a file in it.

    The lock stays on the folder when it is renamed.

    Args:
        folder: the folder.
        place: its name in messages.
    Raises:
        UserError: as :func:`lock_folder`.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _acquire(descriptor, place)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, place: Path, owner: IO[str] | None = None) -> None:
    """Wait for a lock; ``owner`` holds the name of the process that has it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _try_lock(descriptor, place):
        if time.monotonic() > deadline:
            name = ""
            if owner is not None:
                owner.seek(0)
                name = owner.read(200).strip()
            raise UserError(
                f"{place}: another run is writing here{name and f' ({name})'}; wait "
                "for it, or end it"
            )
        time.sleep(0.2)


def _try_lock(descriptor: int, place: Path) -> bool:
    """Return False if another process has the lock."""
    try:
        import fcntl
    except ImportError:  # no POSIX system
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: its file system has no locks: start no second run", place)
    return True

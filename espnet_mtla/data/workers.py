"""Worker processes that do not outlive the command that started them."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from espnet_mtla.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOCK_PATIENCE_SECONDS = 10.0


def map_unordered(
    work: Callable[[Job], Result], jobs: Sequence[Job], nj: int
) -> Iterator[tuple[Job, Result]]:
    """Yield ``(job, work(job))`` as they finish, on ``nj`` processes (1: in this one).

    The first exception of a job is raised here after the jobs that run have ended;
    those that wait are not started.
    """
    if nj < 1:
        raise UserError(f"--nj {nj}: must be at least 1")
    if nj == 1 or len(jobs) < 2:
        return ((job, work(job)) for job in jobs)
    # Forked, so that the workers share the folder's lock with this process; and forked
    # now, before the caller's progress bar starts a thread.
    pool = ProcessPoolExecutor(
        min(nj, len(jobs)),
        mp_context=multiprocessing.get_context("fork"),
        initializer=_prepare_worker,
        initargs=(os.getpid(),),
    )
    return _results(pool, {pool.submit(work, job): job for job in jobs})


def _results(
    pool: ProcessPoolExecutor, futures: dict[Future[Result], Job]
) -> Iterator[tuple[Job, Result]]:
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker(parent: int) -> None:
    """End this worker with its parent, even by kill -9, and silently on ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against a second run of the same command.

    The lock is the kernel's: it goes with the last process of a run, however that ends.
    Workers of a run killed a moment ago are waited for; :class:`UserError` after that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as stream:
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{folder}: another run is writing here; wait for it"
                    ) from None
                time.sleep(0.2)
        yield

"""Worker processes that end with the command that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import TypeVar

from espnet_mtla.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_unordered(
    work: Callable[[Job], Result], jobs: Sequence[Job], nj: int
) -> Iterator[tuple[Job, Result]]:
    """Yield ``(job, work(job))`` in order of completion.

    Args:
        work: function that a worker process can import.
        jobs: its arguments.
        nj: number of processes; 1 works in the calling process.
    Raises:
        UserError: ``nj`` is below 1.
        Exception: the first exception of a job, after the running jobs have ended.
            Waiting jobs are cancelled.
    """
    if nj < 1:
        raise UserError(f"--nj {nj}: must be at least 1")
    if nj == 1 or len(jobs) < 2:
        return ((job, work(job)) for job in jobs)
    # Fork, so that the workers inherit the folder's lock. Fork now: the caller's
    # progress bar will start a thread.
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
    """Yield each finished job and its result; shut the pool down at the end."""
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker(parent: int) -> None:
    """End this worker when its parent ends, even by kill -9, and silently on ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

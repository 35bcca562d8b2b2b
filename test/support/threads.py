"""The same jobs in several threads at once, for tests of what threads share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")
THREADS = 4


@contextmanager
def interleaved() -> Iterator[None]:
    """Let Python change threads at nearly every instruction, torch use one thread."""
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(interval)


def in_threads(
    work: Callable[[Job], Result], jobs: Sequence[Job], rounds: int = 1
) -> list[list[Result]]:
    """Results of all jobs, in their order, from each of :data:`THREADS` threads.

    The threads wait for each other before each job, and each begins with another one,
    so that different jobs run beside each other.

    Args:
        work: what is tested; an exception in a thread is raised here.
        jobs: its arguments, one a call.
        rounds: calls of each job in each thread.
    """
    barrier = threading.Barrier(THREADS)

    def turn(thread: int) -> list[Result]:
        results: dict[int, Result] = {}
        try:
            for count in range(rounds * len(jobs)):
                place = (count + thread) % len(jobs)
                barrier.wait(timeout=60)
                results[place] = work(jobs[place])
        except threading.BrokenBarrierError:
            return []  # another thread failed, and says why
        except BaseException:
            barrier.abort()
            raise
        return [results[place] for place in range(len(jobs))]

    with interleaved(), ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(turn, thread) for thread in range(THREADS)]
        return [future.result() for future in futures]


def overlapped(context: Callable[[], AbstractContextManager[None]]) -> None:
    """Run a context in two threads that overlap, the first leaving first.

    The second enters while the first is inside, or waits for it: then it enters after.
    """
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with context():
            first_in.set()
            second_in.wait(timeout=0.5)
        first_out.set()

    def second() -> None:
        first_in.wait(timeout=30)
        with context():
            second_in.set()
            first_out.wait(timeout=30)

    threads = [threading.Thread(target=turn) for turn in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first_out.is_set() and second_in.is_set()

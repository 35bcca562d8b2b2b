"""Log the phases of a conversion with their times, and progress within a phase."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL = 10.0
"""Seconds between two lines of progress within a phase."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Log the start and, if it succeeds, the duration of the block."""
    log.info("%s ...", name)
    start = time.monotonic()
    yield
    log.info("%s: %.1f s", name, time.monotonic() - start)


def track(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Yield ``items``; log every few seconds how many are done.

    Args:
        items: to iterate over.
        name: of the phase.
        total: number of items.
    """
    start = latest = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - latest >= INTERVAL:
            log.info("%s: %d of %d, %.0f s", name, done, total, now - start)
            latest = now
        yield item


def step_log(name: str, total: int) -> Callable[[int, float], None]:
    """Return a function of (steps done, loss) that logs every few seconds, and the end.

    Args:
        name: of the phase.
        total: number of steps.
    """
    start = time.monotonic()
    latest = start

    def report(step: int, loss: float) -> None:
        nonlocal latest
        now = time.monotonic()
        if step == total or now - latest >= INTERVAL:
            seconds = now - start
            log.info(
                "%s: %d of %d, loss %.4f, %.0f s", name, step, total, loss, seconds
            )
            latest = now

    return report

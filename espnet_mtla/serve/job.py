"""A sound to decode, on its way through the engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.decoder.memory import Load
    from espnet_mtla.recognise.prepare import Encoded
    from espnet_mtla.recognise.recogniser import Recognised
    from espnet_mtla.recognise.utterances import Sound
    from espnet_mtla.search.hotwords import Hotwords
    from espnet_mtla.search.running import RunningSearch


class DeadlinePassed(TimeoutError):
    """The deadline of a sound passed before it was decoded."""


@dataclass(eq=False)
class Job:
    """A sound to decode.

    Attributes:
        sound: its samples.
        load: what decoding it takes.
        hotwords: of this sound alone.
        deadline: time by :func:`time.monotonic` after which it is not decoded.
        partial: called in the engine's thread with the tokens known so far.
        future: its result.
        dropped: set by :meth:`Engine.drop`.
        known: tokens passed to ``partial`` last.
    """

    sound: Sound
    load: Load
    hotwords: Hotwords | None = None
    deadline: float = float("inf")
    partial: Callable[[list[int]], None] | None = None
    future: Future[Recognised] = field(default_factory=Future)
    dropped: bool = False
    encoded: Encoded | None = None
    began: float = 0.0
    known: int = 0


def jobs_of(search: RunningSearch) -> list[Job]:
    """Return the jobs of the running utterances."""
    return [key for key in search.live if isinstance(key, Job)]


def largest_sizes(loads: list[Load]) -> tuple[int, int]:
    """Return most frames and most tokens of some utterances."""
    frames = max((load.frames for load in loads), default=0)
    return frames, max((load.tokens for load in loads), default=0)


def tell_partial(job: Job, search: RunningSearch) -> None:
    """Pass on the tokens that a result is known to begin with, if there are more."""
    if job.partial is None:
        return
    tokens = search.agreed(job)
    if len(tokens) > job.known:
        job.known = len(tokens)
        job.partial(tokens)

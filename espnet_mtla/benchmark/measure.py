"""Timers and memory counters of the benchmarks.

A shared machine is never quiet: the cases of a comparison take turns, round after
round, so that a busy minute slows all of them, and medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one case over ``rounds`` calls, warm-up excluded.

    Attributes:
        median: median of all rounds.
        low: first quartile.
        high: third quartile.
        rounds: number of timed calls.
        first: the first warm-up call: compilation, autotuning and cold memory included.
    """

    median: float
    low: float
    high: float
    rounds: int
    first: float

    def columns(self) -> dict[str, float | int]:
        """Return the columns of a report's row, in milliseconds."""
        return {
            "ms": self.median * 1e3,
            "ms low": self.low * 1e3,
            "ms high": self.high * 1e3,
            "first ms": self.first * 1e3,
            "rounds": self.rounds,
        }


@dataclass
class Stopwatch:
    """Seconds of a block.

    Attributes:
        wall: by the clock.
        cpu: of this process on the CPU, which excludes other work on the machine.
    """

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Stopwatch]:
    """Measure a block; the times are there when it ends, the device's queue empty."""
    watch = Stopwatch()
    wall, cpu = now(device), time.process_time()
    yield watch
    watch.wall, watch.cpu = now(device) - wall, time.process_time() - cpu


def now(device: torch.device) -> float:
    """Wait for the device, then return the clock in seconds."""
    synchronise(device)
    return time.perf_counter()


def deadline(seconds: float) -> Callable[[], bool]:
    """Return a function that returns True from ``seconds`` after this call on."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def wall_seconds(case: Case, device: torch.device) -> float:
    """Return the seconds of one call, the device's queue empty before and after."""
    start = now(device)
    case()
    return now(device) - start


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    cases: Mapping[str, Case],
    device: torch.device,
    rounds: int = 10,
    warmup: int = 2,
    max_seconds: float = 60.0,
) -> dict[str, Timing]:
    """Time the cases in turn, each once a round; each round starts with another one.

    Args:
        cases: functions to time, by name.
        device: where they compute.
        rounds: largest number of rounds; at least 3 are run.
        warmup: calls of each case before the first round, at least 1.
        max_seconds: no round starts after this time.
    """
    names = list(cases)
    first = {name: wall_seconds(cases[name], device) for name in names}
    for _ in range(warmup - 1):
        for name in names:
            wall_seconds(cases[name], device)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    time_is_up = deadline(max_seconds)
    for i in range(max(rounds, 3)):
        if i >= 3 and time_is_up():
            break
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(wall_seconds(cases[name], device))
    return {name: _timing(seconds[name], first[name]) for name in names}


def _timing(seconds: list[float], first: float) -> Timing:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, len(seconds), first)


def seconds_per_call(cases: Sequence[Case], device: torch.device) -> float:
    """Return the median seconds of a call; the cases do the same on other memory.

    On a GPU all cases are recorded as one CUDA graph and the graph is replayed, which
    excludes the time of launches and of Python.
    """
    for case in cases:
        case()
    if device.type != "cuda":
        return statistics.median(wall_seconds(case, device) for case in [*cases] * 5)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for case in cases:
            case()
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(22)]
    for event in events:
        event.record()
        graph.replay()
    torch.cuda.synchronize()
    seconds = [start.elapsed_time(end) / 1e3 for start, end in pairwise(events)]
    return statistics.median(seconds) / len(cases)


def saved_bytes(forward: Callable[[], torch.Tensor], *known: torch.Tensor) -> int:
    """Return the bytes that autograd saves for the backward pass of ``forward()``.

    Each storage counts once, with its full size. The storages of ``known`` do not
    count: inputs and parameters, which exist anyway.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in known}
    sizes: dict[int, int] = {}
    alive = []  # a freed storage's address could be reused, and counted twice

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        alive.append(forward())
    return sum(sizes.values())


def peak_bytes(case: Case, device: torch.device) -> int | None:
    """Call ``case`` and return the peak of bytes allocated on a GPU above those before.

    On a CPU nothing is called and the result is None: torch does not count there.
    """
    if device.type != "cuda":
        return None
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    case()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before

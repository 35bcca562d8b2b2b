"""Time and memory, measured so that two numbers of one run can be compared.

A shared machine is never quiet: the cases of a comparison take turns, round after
round, so that a busy minute hits all of them, and medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one case: median and quartiles of ``rounds``, warm-up left out."""

    median: float
    low: float
    high: float
    rounds: int
    first: float
    """The first warm-up call: compilation, autotuning and cold memory included."""

    def columns(self, unit: float = 1e3, name: str = "ms") -> dict[str, float | int]:
        """For a row of a report, in milliseconds unless told otherwise."""
        return {
            name: self.median * unit,
            f"{name} low": self.low * unit,
            f"{name} high": self.high * unit,
            f"first {name}": self.first * unit,
            "rounds": self.rounds,
        }


def seconds(case: Case, device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's queue emptied on both sides."""
    synchronise(device)
    start = time.perf_counter()
    case()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    cases: Mapping[str, Case],
    device: torch.device,
    rounds: int = 10,
    warmup: int = 2,
    max_seconds: float = 60.0,
) -> dict[str, Timing]:
    """Time the cases in turn, each once a round; every round starts with another one.

    Args:
        rounds: at most so many; never fewer than 3.
        warmup: calls of each case before the first round, at least 1.
        max_seconds: no new round begins after so long.
    """
    names = list(cases)
    first = {name: seconds(cases[name], device) for name in names}
    for _ in range(warmup - 1):
        for name in names:
            seconds(cases[name], device)
    taken: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + max_seconds
    for i in range(max(rounds, 3)):
        if i >= 3 and time.perf_counter() > end:
            break
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            taken[name].append(seconds(cases[name], device))
    return {name: _timing(taken[name], first[name]) for name in names}


def _timing(values: list[float], first: float) -> Timing:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, low, high, len(values), first)


def kept_bytes(forward: Callable[[], torch.Tensor], *given: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward of ``forward()``.

    Each storage counts once, whole; those of ``given`` (inputs and parameters, which
    live anyway) do not.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    sizes: dict[int, int] = {}
    alive = []  # a freed storage's address could be used, and counted, again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive.append(forward())
    return sum(sizes.values())


def peak_bytes(case: Case, device: torch.device) -> int | None:
    """Most bytes allocated above what was there before; None where nobody counts."""
    if device.type != "cuda":
        return None
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    case()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before

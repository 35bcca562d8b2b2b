"""The decode kernel: bytes and products a second, against what the device can do.

A kernel that reads a cache is bound by memory where few queries share it, and by
products where many do. So it is compared with a plain copy and with a large product of
matrices, both measured on the same device in the same run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from espnet_mtla.attention import EntryLayout
    from espnet_mtla.attention.decoding.backend import DecodeBackend
    from espnet_mtla.attention.decoding.backend.triton import Launch
    from espnet_mtla.benchmark.report import BenchmarkReport, Value

ENTRIES = ["128+32", "256+32", "256+64", "512+64", "8x64"]
SHAPES = {"cuda": ["1x8", "64x8", "256x8", "8x160", "64x160", "8x400"], "cpu": ["4x8"]}
SLOTS = {"cuda": [250, 1000, 4096, 16384], "cpu": [250, 1000]}
MOST_BYTES = 8e9
"""Of a case's entries; larger ones are left out, with a note."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--entries", nargs="+", default=ENTRIES, help="latent+rope, or heads x width")
    add("--shapes", nargs="+", help="rows x queries of a row; default: by device")
    add("--slots", nargs="+", type=count, help="entries of a row; default: by device")
    add("--backends", nargs="+", help="default: all that fit the device")
    add("--dtype", choices=list(TOLERANCE), help="default: bfloat16, on a CPU float32")
    add("--sweep", action="store_true", help="time other cuts of the Triton kernel too")


def run(args: argparse.Namespace) -> BenchmarkReport:
    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec

    kind = args.device.partition(":")[0]
    args.shapes = args.shapes or SHAPES[kind]
    args.slots = args.slots or SLOTS[kind]
    args.dtype = args.dtype or ("float32" if kind == "cpu" else "bfloat16")
    notes: list[str] = []
    backends = _backends(args, notes)
    ceilings = measure_ceilings(args.device, args.dtype, notes)
    rows: list[dict[str, Value]] = []
    for case in _cases(args, notes):
        for name, backend in backends[case.entries].items():
            rows.append(_measure(case, name, backend, ceilings))
        if args.sweep and "triton" in backends[case.entries]:
            rows += _sweep(case, ceilings, notes)
    return BenchmarkReport(
        part="kernel",
        title="Attention of a decoding step over a cache",
        rows=rows,
        plots=[PlotSpec("slots", "% of limit", "case")],
        hidden=["case", "GB"],
        notes=list(dict.fromkeys(notes)),
    )


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Case:
    """One size: ``rows`` of ``slots`` entries, each asked by ``queries`` a head."""

    entries: str
    rows: int
    queries: int
    slots: int
    device: str
    dtype: str

    @property
    def layout(self) -> EntryLayout:
        """What an entry holds."""
        return parse_entries(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes that have to be moved: entries, queries and output once each."""
        layout = self.layout
        asked = self.queries * (layout.key_width + layout.value_width)
        numbers = self.rows * layout.heads * (self.slots * layout.width + asked)
        return numbers * self._dtype.itemsize

    @property
    def flops(self) -> int:
        """Multiplications and additions of both products."""
        layout = self.layout
        each = 2 * self.slots * (layout.key_width + layout.value_width)
        return self.rows * layout.heads * self.queries * each

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.dtype)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Random queries and entries, all visible."""
        import torch

        layout = self.layout
        form: dict[str, Any] = {"device": self.device, "dtype": self._dtype}
        shape = (self.rows, layout.heads)
        q = torch.randn(*shape, self.queries, layout.key_width, **form)
        entries = torch.randn(*shape, self.slots, layout.width, **form)
        visible = torch.full((self.rows, 1), self.slots, device=self.device)
        return q, entries, visible


def parse_entries(name: str) -> EntryLayout:
    """``256+32``: a latent and a rotary key; ``8x64``: heads of keys and values."""
    from espnet_mtla.attention import EntryLayout
    from espnet_mtla.errors import UserError

    try:
        if "+" in name:
            rank, rope = (int(part) for part in name.split("+"))
            return EntryLayout(1, rank + rope, rank + rope, 0, rank)
        heads, width = (int(part) for part in name.split("x"))
    except ValueError as error:
        raise UserError(
            f"--entries: {name!r} given, one like 256+32 or 8x64 needed"
        ) from error
    return EntryLayout(heads, 2 * width, width, width, width)


def _cases(args: argparse.Namespace, notes: list[str]) -> Iterator[Case]:
    from espnet_mtla.errors import UserError

    for entries, shape, slots in product(args.entries, args.shapes, args.slots):
        try:
            rows, queries = (int(part) for part in shape.split("x"))
        except ValueError as error:
            raise UserError(
                f"--shapes: {shape!r} given, rows x queries like 64x8 needed"
            ) from error
        if parse_entries(entries).heads > 1:
            queries = max(queries // parse_entries(entries).heads, 1)
        case = Case(entries, rows, queries, slots, args.device, args.dtype)
        if case.nbytes > MOST_BYTES:
            notes.append(f"left out: {entries}, {shape}, {slots} slots: too large")
            continue
        yield case


def _backends(
    args: argparse.Namespace, notes: list[str]
) -> dict[str, dict[str, DecodeBackend]]:
    """Back-ends that fit each kind of entry and passed the gate."""
    import torch

    from espnet_mtla.attention.decoding.backend import FASTEST_FIRST, choose_backend
    from espnet_mtla.errors import UserError

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    found: dict[str, dict[str, DecodeBackend]] = {}
    for entries in args.entries:
        layout, found[entries] = parse_entries(entries), {}
        for name in args.backends or FASTEST_FIRST:
            try:
                backend = choose_backend(name, layout, dtype, device)
            except UserError as error:
                if args.backends:
                    raise
                notes.append(f"left out: {error}")
                continue
            apart = _gate(entries, backend, args)
            notes.append(f"gate: {name}, {entries} differs from fp64 by {apart:.1e}")
            found[entries][name] = backend
    return found


def _gate(entries: str, backend: DecodeBackend, args: argparse.Namespace) -> float:
    """Rows of several lengths, NaN behind them, against float64 on the CPU."""
    import torch

    from espnet_mtla.attention.decoding.backend.torch import TorchBackend
    from espnet_mtla.benchmark.gate import check_close

    case = Case(entries, 3, 9, 300, args.device, args.dtype)
    q, kept, visible = case.inputs()
    visible = torch.tensor([[300], [129], [1]], device=args.device)
    hidden = torch.arange(300, device=args.device) >= visible
    kept = kept.masked_fill(hidden[:, None, :, None], float("nan"))
    scale = case.layout.key_width**-0.5
    result, _ = backend.attend(q, kept, case.layout, visible, scale)
    double_q, double_kept = q.cpu().double(), kept.cpu().double()
    exact, _ = TorchBackend().attend(
        double_q, double_kept, case.layout, visible.cpu(), scale
    )
    name = f"{backend.name} over {entries}"
    return check_close(name, result, exact, TOLERANCE[args.dtype])


# ---------------------------------------------------------------- time


@dataclass(frozen=True)
class Ceilings:
    """What this device reaches: bytes a second copied, operations a second."""

    bandwidth: float
    flops: float


def measure_ceilings(device: str, dtype: str, notes: list[str]) -> Ceilings:
    """A large copy, read and written bytes counted, and a large matrix product."""
    import torch

    large = device.startswith("cuda")
    source = torch.empty(2**31 if large else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = device_seconds([lambda: target.copy_(source)], device)
    size = 8192 if large else 1024
    form = {"device": device, "dtype": getattr(torch, dtype)}
    a, b = torch.randn(size, size, **form), torch.randn(size, size, **form)
    multiplied = device_seconds([lambda: a @ b], device)
    found = Ceilings(2 * source.nbytes / copied, 2 * size**3 / multiplied)
    notes.append(
        f"this device copies {found.bandwidth / 1e9:.0f} GB/s (read and written) and "
        f"multiplies {size} x {size} matrices at {found.flops / 1e12:.3g} TFLOP/s"
    )
    return found


def device_seconds(calls: list[Callable[[], object]], device: str) -> float:
    """Median seconds of one of the calls, each on memory of its own.

    On a GPU all are recorded as one graph: no launch and no wait is in the time.
    """
    import statistics

    import torch

    from espnet_mtla.benchmark.measure import seconds

    for call in calls:
        call()
    if not device.startswith("cuda"):
        taken = [seconds(call, torch.device(device)) for call in calls * 5]
        return statistics.median(taken)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(22)]
    for event in events:
        event.record()
        graph.replay()
    torch.cuda.synchronize()
    taken = [start.elapsed_time(end) / 1e3 for start, end in pairwise(events)]
    return statistics.median(taken) / len(calls)


def _sets(case: Case) -> int:
    """Sets of inputs to rotate among, so that none stays in a cache of the device."""
    if case.device == "cpu":
        return 2
    return max(2, min(64, int(-(-200e6 // case.nbytes))))


def _measure(
    case: Case, name: str, backend: DecodeBackend, ceilings: Ceilings
) -> dict[str, Value]:
    layout, scale = case.layout, case.layout.key_width**-0.5
    sets = [case.inputs() for _ in range(_sets(case))]
    calls: list[Callable[[], object]] = [
        partial(backend.attend, q, kept, layout, visible, scale)
        for q, kept, visible in sets
    ]
    return _row(case, name, device_seconds(calls, case.device), ceilings)


def _row(case: Case, name: str, seconds: float, ceilings: Ceilings) -> dict[str, Value]:
    bandwidth, flops = case.nbytes / seconds, case.flops / seconds
    floors = case.nbytes / ceilings.bandwidth, case.flops / ceilings.flops
    return {
        "entries": case.entries,
        "back-end": name,
        "bound by": "memory" if floors[0] >= floors[1] else "products",
        "rows": case.rows,
        "queries": case.queries,
        "slots": case.slots,
        "case": f"{name}, {case.entries}, {case.rows} x {case.queries}",
        "GB": case.nbytes / 1e9,
        "us": seconds * 1e6,
        "GB/s": bandwidth / 1e9,
        "% of copy": 100 * bandwidth / ceilings.bandwidth,
        "TFLOP/s": flops / 1e12,
        "% of product": 100 * flops / ceilings.flops,
        "% of limit": 100 * max(floors) / seconds,
    }


def _sweep(
    case: Case, ceilings: Ceilings, notes: list[str]
) -> Iterator[dict[str, Value]]:
    """Other cuts of the Triton kernel, one change at a time."""
    from triton.runtime.errors import OutOfResources

    from espnet_mtla.attention.decoding.backend import triton

    layout, scale = case.layout, case.layout.key_width**-0.5
    sets = [case.inputs() for _ in range(_sets(case))]
    planned = triton.launch_for(sets[0][0], sets[0][1], layout)
    for launch in _neighbours(planned):
        calls: list[Callable[[], object]] = [
            partial(triton.attend, q, kept, layout, visible, scale, launch)
            for q, kept, visible in sets
        ]
        cut = "{block_m}x{block_s}, {splits} splits, {warps} warps, {stages} stages"
        cut = cut.format(**asdict(launch))
        try:
            taken = device_seconds(calls, case.device)
        except OutOfResources as error:
            notes.append(f"{case.entries}, {cut}: {error}")
            continue
        yield _row(case, f"triton, {cut}", taken, ceilings)


def _neighbours(launch: Launch) -> Iterator[Launch]:
    for name in ("block_m", "block_s", "splits", "warps"):
        value = getattr(launch, name)
        least = {"block_m": 16, "block_s": 16, "splits": 1, "warps": 2}[name]
        for other in (value // 2, value * 2):
            if other >= least:
                yield replace(launch, **{name: other})
    for stages in {2, 3, 4} - {launch.stages}:
        yield replace(launch, stages=stages)

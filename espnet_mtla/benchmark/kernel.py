"""Time the kernels of attention over a cache, against the limits of the device.

Reading a cache is bound by memory bandwidth if few queries share the entries, and by
arithmetic if many do. Both limits are measured in the same run: the bandwidth of a
large copy, and the speed of a large matrix product.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from espnet_mtla.benchmark.kernel_case import Case, parse_entries
from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.backend import DecodeBackend
    from espnet_mtla.attention.decoding.backend.triton_plan import Launch
    from espnet_mtla.benchmark.report import BenchmarkReport, Value

ENTRIES = ["128+32", "256+32", "256+64", "512+64", "8x64"]
SHAPES = {"cuda": ["1x8", "64x8", "256x8", "8x160", "64x160", "8x400"], "cpu": ["4x8"]}
SLOTS = {"cuda": [250, 1000, 4096, 16384], "cpu": [250, 1000]}
MOST_BYTES = 8e9
"""Largest case; larger ones are left out, with a note in the report."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add = parser.add_argument
    add(
        "--entries",
        nargs="+",
        default=ENTRIES,
        help="cache entries: latent+rope widths, or heads x width",
    )
    add("--shapes", nargs="+", help="rows x queries per row; default: by device")
    add("--slots", nargs="+", type=count, help="entries per row; default: by device")
    add("--backends", nargs="+", help="default: all that support the device")
    add(
        "--dtype",
        choices=list(TOLERANCE),
        help="default: bfloat16 on a GPU, else float32",
    )
    add(
        "--sweep",
        action="store_true",
        help="also time the Triton kernel with other tile sizes",
    )


def run(args: argparse.Namespace) -> BenchmarkReport:
    """Check and time each back-end on each case."""
    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec

    device_type = args.device.partition(":")[0]
    args.shapes = args.shapes or SHAPES[device_type]
    args.slots = args.slots or SLOTS[device_type]
    args.dtype = args.dtype or ("float32" if device_type == "cpu" else "bfloat16")
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


def _cases(args: argparse.Namespace, notes: list[str]) -> Iterator[Case]:
    """Yield the cases that the options name; note those that are too large."""
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
    """Return the back-ends that support each entry and pass the gate, by name."""
    import torch

    from espnet_mtla.attention.decoding.backend import FASTEST_FIRST, choose_backend
    from espnet_mtla.errors import UserError

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    backends: dict[str, dict[str, DecodeBackend]] = {}
    for entries in args.entries:
        layout, backends[entries] = parse_entries(entries), {}
        for name in args.backends or FASTEST_FIRST:
            try:
                backend = choose_backend(name, layout, dtype, device)
            except UserError as reason:
                if args.backends:
                    raise
                notes.append(f"left out: {reason}")
                continue
            error = _gate(entries, backend, args)
            notes.append(f"gate: {name}, {entries} differs from fp64 by {error:.1e}")
            backends[entries][name] = backend
    return backends


def _gate(entries: str, backend: DecodeBackend, args: argparse.Namespace) -> float:
    """Check a back-end against float64 on the CPU.

    The rows have several lengths; NaN in the entries behind each row's length must not
    reach the result.
    """
    import torch

    from espnet_mtla.attention.decoding.backend.torch import TorchBackend
    from espnet_mtla.benchmark.gate import check_close

    case = Case(entries, 3, 9, 300, args.device, args.dtype)
    q, cached, visible = case.inputs()
    visible = torch.tensor([[300], [129], [1]], device=args.device)
    hidden = torch.arange(300, device=args.device) >= visible
    cached = cached.masked_fill(hidden[:, None, :, None], float("nan"))
    scale = case.layout.key_width**-0.5
    result, _ = backend.attend(q, cached, case.layout, visible, scale)
    double_q, double_cached = q.cpu().double(), cached.cpu().double()
    exact, _ = TorchBackend().attend(
        double_q, double_cached, case.layout, visible.cpu(), scale
    )
    name = f"{backend.name} over {entries}"
    return check_close(name, result, exact, TOLERANCE[args.dtype])


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class Ceilings:
    """Limits of this device.

    Attributes:
        bandwidth: bytes per second of a copy, read and written bytes counted.
        flops: multiplications and additions per second of a matrix product.
    """

    bandwidth: float
    flops: float


def measure_ceilings(device: str, dtype: str, notes: list[str]) -> Ceilings:
    """Time a large copy and a large matrix product; note both speeds."""
    import torch

    from espnet_mtla.benchmark.measure import seconds_per_call

    large = device.startswith("cuda")
    source = torch.empty(2**31 if large else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    where = torch.device(device)
    copy_seconds = seconds_per_call([lambda: target.copy_(source)], where)
    size = 8192 if large else 1024
    form = {"device": device, "dtype": getattr(torch, dtype)}
    a, b = torch.randn(size, size, **form), torch.randn(size, size, **form)
    product_seconds = seconds_per_call([lambda: a @ b], where)
    bandwidth = 2 * source.nbytes / copy_seconds
    ceilings = Ceilings(bandwidth, 2 * size**3 / product_seconds)
    notes.append(
        f"this device copies {ceilings.bandwidth / 1e9:.0f} GB/s (read and written) "
        f"and multiplies {size} x {size} matrices at {ceilings.flops / 1e12:.3g} "
        "TFLOP/s"
    )
    return ceilings


def _input_sets(case: Case) -> int:
    """Return how many sets of inputs to rotate, so that none stays in a CPU's or GPU's
    own cache.
    """
    if case.device == "cpu":
        return 2
    return max(2, min(64, int(-(-200e6 // case.nbytes))))


def _measure(
    case: Case, name: str, backend: DecodeBackend, ceilings: Ceilings
) -> dict[str, Value]:
    """Return the report's row of one back-end on one case."""
    import torch

    from espnet_mtla.benchmark.measure import seconds_per_call

    layout, scale = case.layout, case.layout.key_width**-0.5
    sets = [case.inputs() for _ in range(_input_sets(case))]
    calls: list[Callable[[], object]] = [
        partial(backend.attend, q, cached, layout, visible, scale)
        for q, cached, visible in sets
    ]
    seconds = seconds_per_call(calls, torch.device(case.device))
    return _row(case, name, seconds, ceilings)


def _row(case: Case, name: str, seconds: float, ceilings: Ceilings) -> dict[str, Value]:
    """Return a report's row: speeds, and their share of the device's limits."""
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
    """Yield rows of the Triton kernel with other tile sizes, one change at a time."""
    import torch
    from triton.runtime.errors import OutOfResources

    from espnet_mtla.attention.decoding.backend import triton
    from espnet_mtla.benchmark.measure import seconds_per_call

    layout, scale = case.layout, case.layout.key_width**-0.5
    sets = [case.inputs() for _ in range(_input_sets(case))]
    planned = triton.launch_for(sets[0][0], sets[0][1], layout)
    for launch in _neighbours(planned):
        calls: list[Callable[[], object]] = [
            partial(triton.attend, q, cached, layout, visible, scale, launch)
            for q, cached, visible in sets
        ]
        tiles = "{block_m}x{block_s}, {splits} splits, {warps} warps, {stages} stages"
        tiles = tiles.format(**asdict(launch))
        try:
            seconds = seconds_per_call(calls, torch.device(case.device))
        except OutOfResources as error:
            notes.append(f"{case.entries}, {tiles}: {error}")
            continue
        yield _row(case, f"triton, {tiles}", seconds, ceilings)


def _neighbours(launch: Launch) -> Iterator[Launch]:
    """Yield launches that differ from this one in a single parameter."""
    for name in ("block_m", "block_s", "splits", "warps"):
        value = getattr(launch, name)
        least = {"block_m": 16, "block_s": 16, "splits": 1, "warps": 2}[name]
        for other in (value // 2, value * 2):
            if other >= least:
                yield replace(launch, **{name: other})
    for stages in {2, 3, 4} - {launch.stages}:
        yield replace(launch, stages=stages)

"""Measure speed and memory of training, decoding and kernels, on a CPU or a GPU.

Results are checked against float64 before anything is timed. Cases take turns, and
medians are reported. JSON, table and plot are written to --output_dir.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.benchmark import PARTS
from espnet_mtla.benchmark.table import RUN_SECONDS, RUNS, runs_for
from espnet_mtla.bin.cli import HelpFormatter, command_parser, run
from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    from espnet_mtla.benchmark.report import BenchmarkReport


def get_parser() -> argparse.ArgumentParser:
    """Return the command's parser, with a subparser for each part."""
    form: dict[str, Any] = {"formatter_class": HelpFormatter}
    parser = command_parser("benchmark", __doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, summary in PARTS.items():
        part = parts.add_parser(name, help=summary, description=summary, **form)
        _add_common(part)
        import_module(f"espnet_mtla.benchmark.{name}").add_arguments(part)
    _add_all(parts.add_parser("all", help="all runs, in about ten minutes", **form))
    show = parts.add_parser("show", help="print and plot an earlier result", **form)
    show.add_argument(
        "result", type=Path, metavar="RESULT.json", help="file of an earlier run"
    )
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that all parts have."""
    add = parser.add_argument
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda:N")
    add("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses")
    add("--rounds", type=count, default=10, help="timed calls of each case, at most")
    add("--warmup", type=count, default=2, help="untimed calls of each case before")
    add(
        "--max_seconds",
        type=float,
        default=60,
        help="per comparison",
    )
    add(
        "--output_dir",
        type=Path,
        default=Path("benchmarks"),
        help="folder of the results",
    )
    add("--name", default="", help="of the files; default: PART_DEVICE_DTYPE")


def _add_all(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``all``."""
    add = parser.add_argument
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda:N")
    add(
        "--output_dir",
        type=Path,
        default=Path("benchmarks"),
        help="folder of the results",
    )
    names = sorted({name for runs in RUNS.values() for name in runs})
    limits = ", ".join(f"{limit} on {device}" for device, limit in RUN_SECONDS.items())
    add("--run_seconds", type=float, help=f"time limit of a run; default: {limits}")
    add("--only", nargs="+", default=[], choices=names, help="runs; default: all")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = get_parser().parse_args(arguments)
    if args.part == "show":
        show(args.result)
        return
    args.device = _device(args.device)
    if args.part == "all":
        run_all(args)
    else:
        run_part(args, arguments)


def run_all(args: argparse.Namespace) -> None:
    """Execute all runs, each in a process of its own, with its own files.

    A GPU error ends its process, and would end all later runs in the same one.

    Raises:
        UserError: runs failed; names them after all others have finished.
    """
    import torch

    from espnet_mtla.benchmark.measure import stopwatch

    shared = ["--device", args.device, "--output_dir", str(args.output_dir)]
    device_type, failed = args.device.partition(":")[0], []
    limit = args.run_seconds or RUN_SECONDS[device_type]
    for name, arguments in runs_for(device_type, shared, args.only).items():
        print(f"\n# {name}: {' '.join(arguments)}", flush=True)
        with stopwatch(torch.device("cpu")) as watch:
            reason = _run_alone(arguments, limit)
        if reason:
            failed.append(f"{name} ({reason})")
        logging.info("%s took %.0f s", name, watch.wall)
    if failed:
        raise UserError(f"not measured: {', '.join(failed)}; see the reasons above")


def _run_alone(arguments: list[str], seconds: float) -> str | None:
    """Run the command in another process; return why it failed, or None."""
    command = [sys.executable, "-m", "espnet_mtla.bin.benchmark", *arguments]
    try:
        code = subprocess.run(command, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return f"exit status {code}" if code else None


def run_part(args: argparse.Namespace, arguments: list[str]) -> None:
    """Check and measure one part; print its report and write its files."""
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    from espnet_mtla.benchmark.report import conditions

    before = conditions(args.device, arguments)
    report = import_module(f"espnet_mtla.benchmark.{args.part}").run(args)
    load = " ".join(f"{load:.2f}" for load in os.getloadavg())
    report.conditions = {**before, "load at end": load}
    device_type = args.device.partition(":")[0]
    parts = [args.part, device_type, *([args.dtype] if hasattr(args, "dtype") else [])]
    stem = args.output_dir / (args.name or "_".join(parts))
    print(report.table(), *report.notes, sep="\n", flush=True)
    for path in report.write(stem):
        logging.info("wrote %s", path)
    _plot(report, stem)


def show(result: Path) -> None:
    """Print an earlier result, and draw its plot beside its file."""
    from espnet_mtla.benchmark.report import BenchmarkReport

    try:
        report = BenchmarkReport.read(result)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{result}: not a result of this command ({error})") from error
    print(report.document())
    _plot(report, result.with_suffix(""))


def _plot(report: BenchmarkReport, stem: Path) -> None:
    """Draw the report into ``stem``.png where matplotlib is installed."""
    picture = stem.with_suffix(".png")
    if not report.plots:
        return
    if find_spec("matplotlib") is None:
        logging.info("no plot: matplotlib is not installed; `show` draws it later")
        return
    from espnet_mtla.plot.measurements import draw_measurements

    draw_measurements(report, picture)
    logging.info("wrote %s", picture)


def _device(name: str) -> str:
    """Validate ``--device``; ``auto`` is the first GPU if there is one."""
    import torch

    gpus = torch.cuda.device_count()
    if name == "auto":
        return "cuda:0" if gpus else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise UserError(f"--device: {name!r} given, cpu or cuda:N is needed")
    if name != "cpu" and int(match[1] or 0) >= gpus:
        raise UserError(f"--device: {name} given, but torch finds {gpus} GPUs")
    return name


if __name__ == "__main__":
    run(main)

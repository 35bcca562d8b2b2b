"""A benchmark's result: rows with their conditions, as JSON, table and plot."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.score.provenance import provenance
from espnet_mtla.score.table import aligned, markdown

Value = str | int | float | None


@dataclass(frozen=True)
class PlotSpec:
    """One line for each value of ``by``: ``y`` over ``x``, both names of columns."""

    x: str
    y: str
    by: str


@dataclass
class BenchmarkReport:
    """What a part measured.

    ``rows`` are flat and name their units ("ms", "kept MB"). ``hidden`` columns are
    kept in the JSON alone. ``notes`` tell what was left out and why, and what the gate
    found; ``conditions`` are filled in by the command.
    """

    part: str
    title: str
    rows: list[dict[str, Value]]
    plots: list[PlotSpec] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conditions: dict[str, Value] = field(default_factory=dict)

    def table(self, as_markdown: bool = False) -> str:
        """Columns in order of appearance; text flush left, numbers right."""
        shown = [name for name in self._columns() if name not in self.hidden]
        cells = [[_cell(row.get(name)) for name in shown] for row in self.rows]
        texts = [all(isinstance(row.get(n), str) for row in self.rows) for n in shown]
        left = texts.index(False) if False in texts else len(texts)
        return (markdown if as_markdown else aligned)(shown, cells, left=left)

    def document(self) -> str:
        """Title, table, notes and conditions, as Markdown."""
        conditions = [f"- {name}: {value}" for name, value in self.conditions.items()]
        notes = [f"- {note}" for note in self.notes]
        parts = [f"# {self.title}", self.table(as_markdown=True)]
        parts += ["\n".join(notes)] if notes else []
        return "\n\n".join([*parts, "Conditions:\n\n" + "\n".join(conditions)]) + "\n"

    def write(self, stem: Path) -> list[Path]:
        """``stem`` + .json, .md, and .png where matplotlib is installed."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(stem.with_suffix(".json")) as file:
            file.write(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        with atomic_file(stem.with_suffix(".md")) as file:
            file.write(self.document())
        return [stem.with_suffix(".json"), stem.with_suffix(".md")]

    @classmethod
    def read(cls, path: Path) -> BenchmarkReport:
        """A report that :meth:`write` left as JSON."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**raw, "plots": [PlotSpec(**plot) for plot in raw["plots"]]})

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))


def ratio(number: Value, base: Value) -> float | None:
    """``number / base``; None where one of them is no number, or the base is 0."""
    if isinstance(number, int | float) and isinstance(base, int | float) and base:
        return number / base
    return None


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def conditions(device: str, arguments: Sequence[str]) -> dict[str, Value]:
    """Where, when and with what: device, versions, commit, load, command line."""
    import torch

    made = provenance()
    shown = processor()
    if torch.device(device).type == "cuda":
        shown = torch.cuda.get_device_name(device)
    return {
        "device": shown,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "date": made.date,
        "commit": made.commit,
        "python": platform.python_version(),
        **made.versions,
        **{name: _version(name) for name in ("triton", "flash-attn", "mtla")},
        "cuda": torch.version.cuda if torch.cuda.is_available() else "no device",
        "command": "python -m espnet_mtla.bin.benchmark " + " ".join(arguments),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The CPU's name, as the system gives it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

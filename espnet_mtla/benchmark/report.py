"""The result of a benchmark: rows with their conditions, as JSON and Markdown."""

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
from espnet_mtla.text_files import read_json

Value = str | int | float | None


@dataclass(frozen=True)
class PlotSpec:
    """A plot of column ``y`` over column ``x``, a line for each value of ``by``."""

    x: str
    y: str
    by: str


@dataclass
class BenchmarkReport:
    """The measurements of one part of the benchmark.

    Attributes:
        part: name of the part.
        title: heading of the document.
        rows: values by column; the columns name their units ("ms", "kept MB").
        plots: figures to draw from the rows.
        hidden: columns that the table omits; the JSON file has them.
        notes: results of the checks, and cases left out with their reasons.
        conditions: device, versions and command line, filled in by the command.
    """

    part: str
    title: str
    rows: list[dict[str, Value]]
    plots: list[PlotSpec] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conditions: dict[str, Value] = field(default_factory=dict)

    def table(self, as_markdown: bool = False) -> str:
        """Return the table: columns in order of appearance, numbers right-aligned."""
        shown = [name for name in self._columns() if name not in self.hidden]
        cells = [[_cell(row.get(name)) for name in shown] for row in self.rows]
        texts = [all(isinstance(row.get(n), str) for row in self.rows) for n in shown]
        left = texts.index(False) if False in texts else len(texts)
        return (markdown if as_markdown else aligned)(shown, cells, left=left)

    def document(self) -> str:
        """Return title, table, notes and conditions as Markdown."""
        conditions = [f"- {name}: {value}" for name, value in self.conditions.items()]
        notes = [f"- {note}" for note in self.notes]
        parts = [f"# {self.title}", self.table(as_markdown=True)]
        parts += ["\n".join(notes)] if notes else []
        return "\n\n".join([*parts, "Conditions:\n\n" + "\n".join(conditions)]) + "\n"

    def write(self, stem: Path) -> list[Path]:
        """Write ``stem`` + .json and .md; return both paths."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        data, page = stem.with_suffix(".json"), stem.with_suffix(".md")
        with atomic_file(data) as stream:
            stream.write(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        with atomic_file(page) as stream:
            stream.write(self.document())
        return [data, page]

    @classmethod
    def read(cls, path: Path) -> BenchmarkReport:
        """Read a report from the JSON file that :meth:`write` wrote."""
        raw = read_json(path, "measure again")
        return cls(**{**raw, "plots": [PlotSpec(**plot) for plot in raw["plots"]]})

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))


def ratio(number: Value, base: Value) -> float | None:
    """Return ``number / base``; None if one is not a number, or the base is 0.

    >>> ratio(3, 2), ratio(None, 2), ratio(3, 0)
    (1.5, None, None)
    """
    if isinstance(number, int | float) and isinstance(base, int | float) and base:
        return number / base
    return None


def _cell(value: Value) -> str:
    """Format a value for a table: three significant digits, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def conditions(
    device: str,
    arguments: Sequence[str],
    command: str = "espnet-mtla benchmark",
) -> dict[str, Value]:
    """Return device, load, date, commit, versions and command line of a measurement.

    Args:
        device: torch's name of it.
        arguments: of the command.
        command: that measures.
    """
    import torch

    source = provenance()
    device_name = processor()
    if torch.device(device).type == "cuda":
        device_name = torch.cuda.get_device_name(device)
    return {
        "device": device_name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "date": source.date,
        "commit": source.commit,
        "python": platform.python_version(),
        **source.versions,
        **{name: _version(name) for name in ("triton", "flash-attn", "mtla")},
        "cuda": torch.version.cuda if torch.cuda.is_available() else "no device",
        "command": " ".join([command, *arguments]),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """Return the name of the CPU."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    """Return a package's version, or that it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

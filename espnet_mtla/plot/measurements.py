"""A report as a picture. Needs matplotlib, which a GPU machine may lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_mtla.benchmark.report import Plot, Report
from espnet_mtla.data.atomic import atomic_file


def draw(report: Report, path: Path) -> None:
    """Each plot of the report beside the other, as PNG."""
    # Without pyplot: no display is asked for and no figure is kept behind our back.
    figure = Figure(figsize=(6 * len(report.plots), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.title}\n{report.conditions.get('device', '')}")
    axes = figure.subplots(1, len(report.plots), squeeze=False)[0]
    for axis, plot in zip(axes, report.plots, strict=True):
        _lines(axis, plot, report)
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


def _lines(axis: Axes, plot: Plot, report: Report) -> None:
    for name in dict.fromkeys(row[plot.by] for row in report.rows):
        points: list[tuple[Any, Any]] = [
            (row[plot.x], row[plot.y])
            for row in report.rows
            if row[plot.by] == name and row.get(plot.y) is not None
        ]
        if points:
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=str(name))
    ticks: list[Any] = [row[plot.x] for row in report.rows]
    ticks = sorted(set(ticks))
    if all(isinstance(tick, int | float) and tick > 0 for tick in ticks):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_yscale("log")
    axis.set(xlabel=plot.x, ylabel=plot.y)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)

"""Draw the measurements of a benchmark: one panel for each of its plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.plot.figure import new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from espnet_mtla.benchmark.report import BenchmarkReport, PlotSpec


def draw_measurements(report: BenchmarkReport, path: Path) -> None:
    """Draw the plots of a benchmark's report side by side into a PNG file."""
    figure = new_figure(6 * len(report.plots), 4.5)
    figure.suptitle(f"{report.title}\n{report.conditions.get('device', '')}")
    axes = figure.subplots(1, len(report.plots), squeeze=False)[0]
    for axis, plot in zip(axes, report.plots, strict=True):
        _draw_lines(axis, plot, report)
    save_png(figure, path, dpi=120)


def _draw_lines(axis: Axes, plot: PlotSpec, report: BenchmarkReport) -> None:
    """Draw ``plot.y`` over ``plot.x``, a line for each value of ``plot.by``."""
    for name in dict.fromkeys(row[plot.by] for row in report.rows):
        points: list[tuple[Any, Any]] = [
            (row[plot.x], row[plot.y])
            for row in report.rows
            if row[plot.by] == name and row.get(plot.y) is not None
        ]
        if points:
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=str(name))
    values: list[Any] = [row[plot.x] for row in report.rows]
    ticks = sorted(set(values))
    if all(isinstance(tick, int | float) and tick > 0 for tick in ticks):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_yscale("log")
    axis.set(xlabel=plot.x, ylabel=plot.y)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)

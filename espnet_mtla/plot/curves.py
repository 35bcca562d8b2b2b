"""Learning curves of several trainings side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_mtla.errors import UserError

Stats = Mapping[int, Mapping[str, Mapping[str, Any]]]
COLOURS = ("#333333", "#1b9e77", "#d95f02", "#7570b3", "#c2185b", "#1f78b4", "#8c6d31")


def read_stats(folder: Path) -> Stats:
    """What the trainer recorded: epoch, part of the data, name, value.

    Raises:
        UserError: nothing was trained in the folder.
    """
    from espnet_mtla.model.checkpoint import CHECKPOINT, load

    file = folder / CHECKPOINT
    if not file.is_file():
        raise UserError(f"{folder}: no {CHECKPOINT}: nothing was trained here")
    return load(file)["reporter"]["stats"]


def series(stats: Stats, part: str, name: str) -> tuple[list[int], list[float]]:
    """Epochs and values, those that are finite numbers."""
    epochs, values = [], []
    for epoch in sorted(stats):
        value = stats[epoch].get(part, {}).get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            epochs.append(epoch)
            values.append(float(value))
    return epochs, values


def draw(runs: Mapping[str, Stats], names: Sequence[str]) -> Figure:
    """A panel for each statistic: validation solid, training dashed.

    Raises:
        UserError: no run has a statistic that is asked for.
    """
    for name in names:
        if not any(series(stats, "valid", name)[0] for stats in runs.values()):
            last = next(iter(runs.values()))
            known = sorted(last[max(last)].get("valid", {}))
            raise UserError(f"--names {name}: not recorded; {', '.join(known)} are")
    figure = Figure(figsize=(5.5 * len(names), 4), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot, no display is asked for
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(panels, names, strict=True):
        for number, (label, stats) in enumerate(runs.items()):
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(*series(stats, "valid", name), color=colour, label=label)
            axis.plot(*series(stats, "train", name), color=colour, ls="--", alpha=0.5)
        axis.set_title(f"{name} (dashed: training)", loc="left", fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
    panels[0].legend(fontsize=9)
    return figure

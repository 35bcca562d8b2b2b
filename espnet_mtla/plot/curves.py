"""Draw the learning curves of several trainings in the same panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError
from espnet_mtla.plot.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Stats = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""Statistics of a training, by epoch, part of the data (train, valid) and name."""
COLOURS = ("#333333", "#1b9e77", "#d95f02", "#7570b3", "#c2185b", "#1f78b4", "#8c6d31")


def read_stats(exp_dir: Path) -> Stats:
    """Read the statistics that the trainer saved in its checkpoint.

    Raises:
        UserError: the folder has no checkpoint.
    """
    from espnet_mtla.model.checkpoint import CHECKPOINT, load

    path = exp_dir / CHECKPOINT
    if not path.is_file():
        raise UserError(f"{exp_dir}: no {CHECKPOINT}: nothing was trained here")
    return load(path)["reporter"]["stats"]


def finite_values(stats: Stats, part: str, name: str) -> tuple[list[int], list[float]]:
    """Return the epochs in which a statistic is a finite number, and its values.

    >>> stats = {1: {"valid": {"acc": float("nan")}}, 2: {"valid": {"acc": 0.5}}}
    >>> finite_values(stats, "valid", "acc")
    ([2], [0.5])
    """
    epochs, values = [], []
    for epoch in sorted(stats):
        value = stats[epoch].get(part, {}).get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            epochs.append(epoch)
            values.append(float(value))
    return epochs, values


def draw_curves(runs: Mapping[str, Stats], names: Sequence[str]) -> Figure:
    """Draw a panel for each statistic: validation solid, training dashed.

    Args:
        runs: statistics of each training, by the label of its curve.
        names: statistics to draw, such as ``loss`` and ``acc``.

    Raises:
        UserError: no training has finite values of a statistic.
    """
    for name in names:
        if not any(finite_values(stats, "valid", name)[0] for stats in runs.values()):
            stats = next(iter(runs.values()))
            recorded = sorted(stats[max(stats)].get("valid", {}))
            raise UserError(f"--names {name}: not recorded; {', '.join(recorded)} are")
    figure = new_figure(5.5 * len(names), 4)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(panels, names, strict=True):
        for index, (label, stats) in enumerate(runs.items()):
            colour = COLOURS[index % len(COLOURS)]
            valid = finite_values(stats, "valid", name)
            train = finite_values(stats, "train", name)
            axis.plot(*valid, color=colour, label=label)
            axis.plot(*train, color=colour, ls="--", alpha=0.5)
        axis.set_title(f"{name} (dashed: training)", loc="left", fontsize=10)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
    panels[0].legend(fontsize=9)
    return figure

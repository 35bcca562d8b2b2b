"""Draw a comparison of systems: quality against cache size, and decoding time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from espnet_mtla.plot.figure import new_figure, save_png
from espnet_mtla.score.metric import METRICS
from espnet_mtla.score.render import quantity, reads_text, title
from espnet_mtla.score.results import ResultRow, Table

COLOURS = {
    "mha": "#333333",
    "gqa": "#8c6d31",
    "mqa": "#d95f02",
    "mla": "#1f78b4",
    "mtla_s2": "#1b9e77",
    "mtla_s3": "#7570b3",
    "mtla_s4": "#c2185b",
}
OTHERS = ("#666633", "#009fb7", "#a65628", "#5e3c99", "#b8860b", "#4d7c0f")
"""Colours of attention types that ``COLOURS`` lacks, in order of appearance."""

MARKERS = "osD^vPX*<>"
OFFSETS = [(9.0, 9.0), (9.0, -9.0), (-9.0, 9.0), (-9.0, -9.0), (9.0, 0.0), (-9.0, 0.0)]
"""Offsets of a label from its marker, in points. The first one where the label covers
nothing is used; places above and below the error bar are tried last."""


def draw_comparison(tables: Sequence[Table]) -> Figure:
    """Draw two panels for each table, quality and time. Incomplete rows are omitted."""
    with rc_context(
        {"font.size": 11, "axes.titlesize": 11, "axes.titleweight": "bold"}
    ):
        figure = new_figure(11, 4.2 * len(tables), margin=0.12)
        axes = figure.subplots(len(tables), 2, squeeze=False, width_ratios=(3, 2))
        colours = colours_of(tables)
        for (left, right), table in zip(axes, tables, strict=True):
            rows = [row for row in table.rows if row.speed and row.quality]
            left.set_title(title(table), loc="left")
            _quality_panel(left, rows, colours)
            left.set_ylabel(f"{METRICS[table.metric].label}, 95 % interval")
            unit = "source token" if reads_text(table) else "second of audio"
            left.set_xlabel(f"KV cache for a {unit} (log scale)")
            _time_panel(right, rows, colours)
        figure.canvas.draw()  # the layout is computed here; labels depend on it
        for axis in axes[:, 0]:
            _place_labels(axis)
    return figure


def save_comparison(tables: Sequence[Table], path: Path) -> None:
    """Draw the tables into a PNG file."""
    save_png(draw_comparison(tables), path, dpi=150)


def colours_of(tables: Sequence[Table]) -> dict[str, str]:
    """Return the colour of each attention type, the same in every panel."""
    labels = dict.fromkeys(row.attention for table in tables for row in table.rows)
    unknown = [label for label in labels if label not in COLOURS]
    extra = {label: OTHERS[i % len(OTHERS)] for i, label in enumerate(unknown)}
    return {label: COLOURS.get(label) or extra[label] for label in labels}


def _quality_panel(
    axis: Axes, rows: Sequence[ResultRow], colours: dict[str, str]
) -> None:
    """Draw quality with its interval over the cache bytes of a second of audio."""
    axis.set_xscale("log")
    sizes = []
    for i, row in enumerate(rows):
        if row.speed is None or row.quality is None:
            continue
        x, y = row.speed.cache_bytes_per_audio_second, row.quality.value
        if x <= 0:  # a model without a cache cannot be shown on a logarithmic axis
            continue
        sizes.append(x)
        low, high = row.quality.ci95
        axis.errorbar(
            x,
            y,
            # In rare cases a percentile interval does not contain the estimate.
            yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
            fmt=MARKERS[i % len(MARKERS)],
            color=colours[row.attention],
            markersize=8,
            capsize=4,
            elinewidth=1.4,
        )
        axis.annotate(
            row.attention,
            (x, y),
            xytext=OFFSETS[0],
            textcoords="offset points",
            color=colours[row.attention],
            fontweight="bold",
        )
    axis.set_ylim(bottom=0)
    if sizes:  # leave room for labels, also if all caches have the same size
        room = max(2.0, (max(sizes) / min(sizes)) ** 0.2)
        axis.set_xlim(min(sizes) / room, max(sizes) * room)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: quantity(x, "B")))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)


def _time_panel(axis: Axes, rows: Sequence[ResultRow], colours: dict[str, str]) -> None:
    """Draw a bar for the decoding time of each row, the encoder's share pale."""
    for i, row in enumerate(rows):
        if row.speed is None:
            continue
        colour = colours[row.attention]
        encoder, wall = row.speed.encoder_seconds, row.speed.wall_seconds
        axis.barh(i, encoder, color=colour, alpha=0.4)
        axis.barh(i, max(0.0, wall - encoder), left=encoder, color=colour)
        gain = f"  ({row.speedup:.2f}x)" if row.speedup else ""
        axis.annotate(
            f"{wall:.1f} s{gain}",
            (wall, i),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_yticks(range(len(rows)), [row.attention for row in rows])
    axis.invert_yaxis()
    longest = max((row.speed.wall_seconds for row in rows if row.speed), default=1.0)
    axis.set_xlim(0, 1.5 * longest)
    axis.set_xlabel("decode time in s (pale: encoder)")
    axis.spines[["top", "right"]].set_visible(False)


def _place_labels(axis: Axes) -> None:
    """Move each label to the offset where it covers the fewest other things."""
    labels = [text for text in axis.texts if isinstance(text, Annotation)]
    boxes = [
        _boxes(axis, container)
        for container in axis.containers
        if isinstance(container, ErrorbarContainer)
    ]
    occupied = [box for pair in boxes for box in pair]
    frame = axis.get_window_extent()
    for label, (marker, bar) in zip(labels, boxes, strict=True):
        points = 72 / axis.figure.dpi
        middle = (marker.y0 + marker.y1) / 2
        ends = [(bar.y1 - middle) * points + 10, (bar.y0 - middle) * points - 10]
        offsets = [*OFFSETS, *((0.0, end) for end in ends)]
        best = min(offsets, key=lambda at: _covered(label, at, occupied, frame))
        _covered(label, best, occupied, frame)  # moves the label back to the best one
        occupied.append(label.get_window_extent())


def _covered(
    label: Annotation, at: tuple[float, float], occupied: Sequence[Bbox], frame: Bbox
) -> int:
    """Move ``label`` to an offset in points; return how many things it covers there.

    Args:
        label: an annotation of the axis.
        at: offset from the marker, in points.
        occupied: boxes of markers, error bars and labels, in pixels.
        frame: box of the axis; a label that leaves it counts as covering one thing.
    """
    label.set_position(at)
    label.set_horizontalalignment(
        "left" if at[0] > 0 else "right" if at[0] < 0 else "center"
    )
    label.set_verticalalignment("center")
    box = label.get_window_extent()
    outside = not (frame.contains(*box.min) and frame.contains(*box.max))
    return outside + sum(box.overlaps(other) for other in occupied)


def _boxes(axis: Axes, container: ErrorbarContainer) -> tuple[Bbox, Bbox]:
    """Return the boxes of a marker and of its error bar, in pixels."""
    line, _, bars = container.lines
    x, y = axis.transData.transform(np.asarray(line.get_xydata())[0])
    (_, low), (_, high) = axis.transData.transform(bars[0].get_segments()[0])
    return (
        Bbox.from_extents(x - 8, y - 8, x + 8, y + 8),
        Bbox.from_extents(x - 7, low, x + 7, high),
    )

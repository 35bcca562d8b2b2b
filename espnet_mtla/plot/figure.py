"""Create a matplotlib figure, and write it to a PNG file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from espnet_mtla.data.atomic import atomic_file


def new_figure(width: float, height: float, margin: float | None = None) -> Figure:
    """Return an empty figure with constrained layout.

    It does not come from pyplot, which would look for a display and keep a reference to
    every figure.

    Args:
        width: in inches.
        height: in inches.
        margin: above and below each panel, in inches; None: matplotlib's default.
    """
    layout = ConstrainedLayoutEngine(h_pad=margin)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as PNG; an existing file is replaced only when that succeeds."""
    with atomic_file(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=dpi)

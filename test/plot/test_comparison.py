"""The comparison shows every system, and no label covers anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from espnet_mtla.plot import comparison
from espnet_mtla.score.results import collect
from test.support.scored_experiments import SYSTEMS, make_experiment


@pytest.fixture
def experiments(tmp_path: Path) -> list[Path]:
    return [make_experiment(tmp_path, f"asr_x_{name}", name) for name in SYSTEMS]


def test_plot_shows_every_attention_without_overlap(experiments):
    figure = comparison.draw_comparison(collect(experiments))
    quality, time = figure.axes
    assert quality.get_xscale() == "log"
    assert [text.get_text() for text in quality.texts] == list(SYSTEMS)
    boxes = [text.get_window_extent() for text in quality.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert [text.get_text() for text in time.get_yticklabels()] == list(SYSTEMS)
    assert len(time.patches) == 2 * len(SYSTEMS)
    assert "10.0 s  (2.00x)" in {text.get_text() for text in time.texts}
    colours = [container.lines[0].get_color() for container in quality.containers]
    assert colours == [comparison.COLOURS[name] for name in SYSTEMS]
    assert [to_hex(bar.get_facecolor()) for bar in time.patches[1::2]] == colours


def test_plot_of_crowded_points_keeps_labels_apart(tmp_path):
    made = [make_experiment(tmp_path, f"asr_mtla_s{i}", "mtla_s2") for i in range(2, 6)]
    quality = comparison.draw_comparison(collect(made)).axes[0]
    boxes = [text.get_window_extent() for text in quality.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_plot_file_holds_a_picture(experiments, tmp_path):
    from matplotlib.image import imread

    comparison.save_comparison(collect(experiments), tmp_path / "plot.png")
    picture = imread(tmp_path / "plot.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1500
    assert len({tuple(pixel) for pixel in picture[::4, ::4, :3].reshape(-1, 3)}) > 10


def test_plot_without_any_complete_row(experiments):
    for path in experiments:
        (path / "decode_beam10/test/efficiency.json").unlink()
    figure = comparison.draw_comparison(collect(experiments, partial=True))
    assert not figure.axes[0].texts

"""The notebook runs from top to bottom and shows what it says."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "egs2" / "notebook" / "mtla.ipynb"


@pytest.fixture(scope="module")
def shown():
    """What the cells print, and how many plots they draw, in a run of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        patch.setenv("OMP_NUM_THREADS", "1")
        place = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources=place
        ).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    text = "".join(o.get("text", "") for o in outputs)
    plots = sum("image/png" in o.get("data", {}) for o in outputs)
    return text, plots


def test_it_trains_and_draws(shown):
    text, plots = shown
    assert plots == 3
    losses = [
        float(line.split()[-1]) for line in text.splitlines() if "held-out" in line
    ]
    assert len(losses) == 2 and all(loss < 3.0 for loss in losses), "4.06 is guessing"


def test_the_cache_shrinks_as_it_says(shown):
    text, _ = shown
    assert "MHA: 1024 bytes a character" in text
    assert "MTLA, s=2: 288 bytes a character" in text
    # Three prompts, two hypotheses each, all of the length that was asked for.
    written = [line.split("...", 1)[1] for line in text.splitlines() if "  ..." in line]
    assert len(written) == 6 and {len(one) for one in written} == {24}


def test_it_is_kept_with_its_outputs():
    """Readers see them without running it; and no output is an error."""
    kept = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [o for cell in kept.cells for o in cell.get("outputs", ())]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any(o.output_type == "error" for o in outputs)
    assert NOTEBOOK.stat().st_size < 400_000

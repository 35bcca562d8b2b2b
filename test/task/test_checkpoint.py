"""Checkpoints cut off by a kill, checkpoints that are no checkpoints, and averages."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.model import checkpoint
from espnet_mtla.task.average import Criterion, average


def states(epoch: int, value: float) -> dict:
    """What espnet2's trainer saves, of a model with one weight and one counter."""
    acc = {1: 0.5, 2: 0.9, 3: 0.7}
    entry = {"acc": np.float64(0), "time": datetime.timedelta(seconds=1)}
    stats = {e: {"valid": {**entry, "acc": acc[e]}} for e in range(1, epoch + 1)}
    model = {"weight": torch.full((2,), value), "steps": torch.tensor(10 * epoch)}
    return {"model": model, "reporter": {"epoch": epoch, "stats": stats}}


def write_run(folder: Path, epochs: int) -> None:
    for epoch in range(1, epochs + 1):
        content = states(epoch, float(epoch))
        torch.save(content["model"], folder / f"{epoch}epoch.pth")
        torch.save(content, folder / "checkpoint.pth")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_a_whole_folder_stays_as_it_is(tmp_path: Path):
    write_run(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert checkpoint.repair(tmp_path) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_empty_folder_begins_at_zero(tmp_path: Path):
    assert checkpoint.repair(tmp_path) == 0


def test_a_checkpoint_cut_off_gives_way_to_the_one_before(tmp_path: Path):
    write_run(tmp_path, 1)
    checkpoint.set_aside(tmp_path)
    torch.save(states(2, 2.0), tmp_path / "checkpoint.pth")
    cut(tmp_path / "checkpoint.pth")
    assert checkpoint.repair(tmp_path) == 1
    assert checkpoint.load(tmp_path / "checkpoint.pth")["reporter"]["epoch"] == 1


def test_a_kill_between_set_aside_and_write_loses_nothing(tmp_path: Path):
    write_run(tmp_path, 1)
    checkpoint.set_aside(tmp_path)
    assert not (tmp_path / "checkpoint.pth").exists()
    assert checkpoint.repair(tmp_path) == 1


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_missing_or_cut_epoch_file_is_written_again(tmp_path: Path, damage):
    write_run(tmp_path, 2)
    damage(tmp_path / "2epoch.pth")
    assert checkpoint.repair(tmp_path) == 2
    weights = checkpoint.load(tmp_path / "2epoch.pth")["weight"]
    assert weights.tolist() == [2.0, 2.0]


def test_the_only_checkpoint_cut_off_is_explained(tmp_path: Path):
    write_run(tmp_path, 1)
    cut(tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"cut off, and no earlier one is left; remove"):
        checkpoint.repair(tmp_path)


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harm-was-done"),))


def test_a_file_with_code_in_it_is_refused_unexecuted(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1), "other": Harmful()}, "a.pth")
    with pytest.raises(UserError, match="objects beyond tensors and numbers"):
        checkpoint.load("a.pth")
    assert not Path("harm-was-done").exists()


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04rest"])
def test_what_is_no_torch_file_is_named(tmp_path: Path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(checkpoint.Unreadable, match=r"a\.pth: cut off or not"):
        checkpoint.load(tmp_path / "a.pth")


def test_the_best_epochs_are_averaged(tmp_path: Path):
    write_run(tmp_path, 3)
    metric = Criterion.parse("valid.acc.max")
    assert average(tmp_path, metric, 2) == [2, 3]
    for name in ("valid.acc.ave_2best.pth", "model.pth"):
        mean = checkpoint.load(tmp_path / name)
        assert mean["weight"].tolist() == [2.5, 2.5]
        assert mean["steps"].item() == 20  # a counter: the best epoch's own
    record = json.loads((tmp_path / "valid.acc.ave_2best.json").read_text())
    assert record == {
        "metric": "valid.acc",
        "best": "max",
        "epochs": {"2": 0.9, "3": 0.7},
    }


def test_the_smallest_is_best_where_asked(tmp_path: Path):
    write_run(tmp_path, 3)
    assert average(tmp_path, Criterion.parse("valid.acc.min"), 1) == [1]


def test_fewer_epochs_than_asked_are_used_and_told(tmp_path: Path, caplog):
    write_run(tmp_path, 3)
    (tmp_path / "1epoch.pth").unlink()
    assert average(tmp_path, Criterion.parse("valid.acc.max"), 5) == [2, 3]
    assert "2 of 5 epochs asked for: 3 were trained" in caplog.text


def test_a_worse_epoch_never_takes_the_place_of_one_not_kept(tmp_path: Path):
    write_run(tmp_path, 3)
    (tmp_path / "3epoch.pth").unlink()
    assert average(tmp_path, Criterion.parse("valid.acc.max"), 2) == [2]


def test_a_metric_not_recorded_names_the_valid_ones(tmp_path: Path):
    write_run(tmp_path, 1)
    with pytest.raises(
        UserError, match=r"valid\.wer: not recorded; valid: valid\.acc$"
    ):
        average(tmp_path, Criterion.parse("valid.wer.min"), 1)


@pytest.mark.parametrize("text", ["acc", "valid.acc", "valid.acc.best", ".acc.max"])
def test_a_metric_of_another_form_is_refused(text):
    with pytest.raises(UserError, match=r"such as valid\.acc\.max"):
        Criterion.parse(text)


def test_averaging_nothing_is_explained(tmp_path: Path):
    with pytest.raises(UserError, match="nothing was trained here"):
        average(tmp_path, Criterion.parse("valid.acc.max"), 1)
    write_run(tmp_path, 1)
    with pytest.raises(UserError, match="--nbest 0"):
        average(tmp_path, Criterion.parse("valid.acc.max"), 0)


def test_files_of_other_models_are_not_mixed(tmp_path: Path):
    write_run(tmp_path, 3)
    torch.save({"bias": torch.zeros(2)}, tmp_path / "3epoch.pth")
    with pytest.raises(UserError, match=r"3epoch\.pth: differs from"):
        average(tmp_path, Criterion.parse("valid.acc.max"), 2)

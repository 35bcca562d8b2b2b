"""The ``train`` command on a toy corpus: statistics, training and resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_mtla.errors import UserError
from espnet_mtla.model import checkpoint
from espnet_mtla.model.build import load_model
from espnet_mtla.task.average import Criterion, average
from espnet_mtla.task.source import Source, usual_seconds


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoint.pth")["model"]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_statistics_hold_every_utterance(collected):
    for part, count in (("train", 7), ("valid", 3)):
        lines = (collected.stats / part / "speech_shape").read_text().splitlines()
        assert len(lines) == count
        assert lines[0] == f"{part}-00 1400"
        texts = (collected.stats / part / "text_shape").read_text().splitlines()
        assert texts[0] == f"{part}-00 2"
    stats = np.load(collected.stats / "train" / "feats_stats.npz")
    assert stats["sum"].shape == (12,)


def test_without_global_statistics_lengths_alone_are_collected(toy, collected):
    """From utt2num_samples, no sound read; the same as reading everything gives."""
    for folder, part in ((toy.train, "train"), (toy.valid, "valid")):
        counts = (collected.stats / part / "speech_shape").read_text()
        (folder / "utt2num_samples").write_text(counts)
    toy("--collect_stats", normalize="utterance_mvn")
    assert not (toy.stats / "train" / "feats_stats.npz").exists()
    for part in ("train", "valid"):
        for name in ("speech_shape", "text_shape"):
            read = (collected.stats / part / name).read_text().splitlines()
            counted = (toy.stats / part / name).read_text().splitlines()
            assert sorted(counted) == sorted(read)
    (toy.train / "utt2num_samples").write_text("train-00 1400\n")
    with pytest.raises(UserError, match="utt2num_samples: utterance train-01"):
        toy("--collect_stats", normalize="utterance_mvn")


def test_the_usual_length_leaves_one_in_a_hundred_out(tmp_path):
    keys = [f"u{number:03d}" for number in range(200)]
    counts = "".join(f"{key} {8 * (index + 1)}\n" for index, key in enumerate(keys))
    (tmp_path / "utt2num_samples").write_text(counts)
    triples = ((str(tmp_path / "text"), "text", "text"),)
    source = Source(tmp_path, triples, dict.fromkeys(keys, "word"), {})
    assert usual_seconds(source, 8) == 198.0
    (tmp_path / "utt2num_samples").unlink()
    assert usual_seconds(source, 8) is None


def test_statistics_replace_old_ones_and_nothing_else(toy):
    toy.stats.mkdir()
    (toy.stats / "thesis.tex").write_text("years of work")
    with pytest.raises(
        UserError, match=r"holds thesis\.tex, which is no file of statistics"
    ):
        toy("--collect_stats")
    assert (toy.stats / "thesis.tex").exists()


def test_a_training_leaves_a_folder_that_decodes_anywhere(collected, tmp_path):
    out = tmp_path / "exp"
    toy = collected
    shutil.copy(toy.stats / "train" / "speech_shape", toy.train / "utt2num_samples")
    toy("--output_dir", out, "--attention", "mtla_s2", "--max_epoch", 2)
    (toy.train / "utt2num_samples").unlink()
    assert (out / ".done").exists()
    assert "2epoch results" in (out / "train.log").read_text()
    assert not (out / "checkpoint.previous.pth").exists()
    average(out, Criterion.parse("valid.acc.max"), 2)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["decoder_conf"]["attention"] == "mtla"
    assert config["decoder_conf"]["embed_dim"] == 8
    assert "kv_lora_rank" in config["decoder_conf"]["attention_conf"]  # a default
    assert config["token_list"][-1] == "<sos/eos>"
    assert config["trained_seconds"] == 2120 / 8000  # of the longest; for packed models
    moved = tmp_path / "elsewhere"
    shutil.move(out, moved)
    model, args = load_model(moved / "config.yaml", moved / "model.pth")
    assert args.normalize_conf["stats_file"] == str(moved / "feats_stats.npz")
    assert_same(model.state_dict(), checkpoint.load(moved / "model.pth"))
    prompt, lengths = model.project(
        *model.eval().encode(torch.randn(2, 4000), torch.tensor([4000, 3000]))
    )
    assert prompt.size(0) == 2
    assert lengths[0] > lengths[1]


LOSSES = {1: (4.35102, 3.76033), 2: (4.15925, 3.71216), 3: (4.13759, 3.66528)}
"""Epoch, training and validation loss with ESPnet 202511, and with 202611 as well."""


def test_every_espnet_trains_to_the_same_losses(collected, tmp_path):
    out = tmp_path / "exp"
    collected("--output_dir", out, "--seed", 3)
    stats = checkpoint.load(out / "checkpoint.pth")["reporter"]["stats"]
    for epoch, expected in LOSSES.items():
        losses = [float(stats[epoch][part]["loss"]) for part in ("train", "valid")]
        assert losses == pytest.approx(expected, rel=1e-4), epoch


class Killed(BaseException):
    """Simulates a kill: neither our code nor espnet2 catches it."""


@pytest.mark.parametrize("moment", ["in epoch 2", "while epoch 2 is written"])
def test_a_killed_training_ends_as_a_straight_one(
    collected, tmp_path, monkeypatch, moment
):
    from espnet_mtla.task.trainer import SafeTrainer

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    collected("--output_dir", straight)
    with monkeypatch.context() as patch:
        if moment == "in epoch 2":
            train_one_epoch, calls = SafeTrainer.train_one_epoch, []

            def stop(**settings):
                calls.append(1)
                if len(calls) == 2:
                    raise Killed
                return train_one_epoch(**settings)

            patch.setattr(SafeTrainer, "train_one_epoch", stop)
        else:
            save = torch.save

            def cut_off(content, path):
                save(content, path)
                if content.get("reporter", {}).get("epoch") == 2:
                    path.write_bytes(path.read_bytes()[:1000])
                    raise Killed

            patch.setattr(torch, "save", cut_off)
        with pytest.raises(Killed):
            collected("--output_dir", broken)
    assert not (broken / ".done").exists()
    collected("--output_dir", broken)
    assert (broken / ".done").exists()
    assert_same(parameters(straight), parameters(broken))


def test_done_is_done_until_options_change(collected, tmp_path, caplog):
    out = tmp_path / "exp"
    collected("--output_dir", out, "--max_epoch", 1)
    before = (out / "checkpoint.pth").stat().st_mtime_ns
    collected("--output_dir", out, "--max_epoch", 1)
    assert "trained already" in caplog.text
    assert (out / "checkpoint.pth").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"other options \(seed; seed: 0 then, 1 now\)"):
        collected("--output_dir", out, "--seed", 1)
    collected("--output_dir", out, "--max_epoch", 2)
    assert checkpoint.load(out / "checkpoint.pth")["reporter"]["epoch"] == 2
    collected("--output_dir", out, "--max_epoch", 1, "--seed", 1, "--resume", "false")
    assert checkpoint.load(out / "checkpoint.pth")["reporter"]["epoch"] == 1
    assert not (out / "2epoch.pth").exists()


def test_an_encoder_is_trained_first_and_carried_over(collected, tmp_path):
    encoder, out = tmp_path / "encoder", tmp_path / "exp"
    alone = {"model_conf": {"ctc_weight": 1.0}}
    collected("--output_dir", encoder, "--max_epoch", 1, **alone)
    average(encoder, Criterion.parse("valid.loss.min"), 1)
    collected(
        *("--output_dir", out, "--max_epoch", 1, "--optim_conf", "lr=0"),
        *("--encoder_model", encoder / "model.pth"),
    )
    ours, theirs = parameters(out), checkpoint.load(encoder / "model.pth")
    names = [n for n in theirs if n.startswith("encoder.") and "norm." not in n]
    assert names
    for name in names:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_model_without_an_encoder_is_no_encoder_model(collected, tmp_path):
    torch.save({"decoder.weight": torch.zeros(1)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth: has no frontend, .* has decoder"):
        collected(
            "--output_dir", tmp_path / "e", "--encoder_model", tmp_path / "model.pth"
        )


def test_steps_that_cannot_be_made_are_no_training(collected, tmp_path):
    out = tmp_path / "exp"
    with pytest.raises(UserError, match="no step of epoch 1 could be made"):
        collected("--output_dir", out, "--accum_grad", 100)
    assert not (out / ".done").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on(collected, tmp_path, monkeypatch):
    out, save = tmp_path / "exp", torch.save

    def full(content, path):
        if content.get("reporter", {}).get("epoch") == 2:
            path.write_bytes(b"half")
            raise RuntimeError(
                "[enforce fail] . PytorchStreamWriter failed writing file"
            )
        save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(UserError, match=r"exp: a checkpoint could not be written"):
            collected("--output_dir", out)
    collected("--output_dir", out)
    assert checkpoint.load(out / "checkpoint.pth")["reporter"]["epoch"] == 3


def test_the_done_file_names_what_was_done(collected, tmp_path):
    out = tmp_path / "exp"
    collected("--output_dir", out, "--max_epoch", 1)
    done = json.loads((out / ".done").read_text())
    assert done.keys() == {"sha256", "max_epoch"}

"""The ``train`` command on a toy corpus: statistics, training, resuming, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
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
    """Stands for a kill: nothing of ours or espnet2's catches it."""


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
        *("--init_param", f"{encoder}/model.pth:encoder:encoder"),
    )
    ours, theirs = parameters(out), checkpoint.load(encoder / "model.pth")
    names = [n for n in theirs if n.startswith("encoder.") and "norm." not in n]
    assert names
    for name in names:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 3}, "max_epochs: unknown key; did you mean max_epoch"),
        ({"encoder": "conformr"}, "encoder: 'conformr' given; valid: transformer"),
        (
            {"encoder_conf": {"num_block": 2}},
            r"encoder_conf\.num_block: unknown key; did",
        ),
        ({"encoder_conf": {"num_blocks": "two"}}, "encoder_conf: "),
        ({"encoder_conf": {"rel_pos_type": "legacy"}}, "use latest"),
        ({"decoder_conf": {"num_layer": 2}}, r"decoder_conf\.num_layer: unknown key"),
        (
            {"decoder_conf": {"attention_conf": {"down_rat": 2}}},
            r"attention_conf\.down_rat: unknown key; did you mean down_rate",
        ),
        ({"decoder_conf": {"attention_conf": {"down_rate": 0}}}, "down_rate: 0 given"),
        ({"projector_conf": {"stack": 0}}, r"projector_conf\.stack: 0 given"),
        ({"model_conf": {"ctc_weight": 2}}, r"model_conf\.ctc_weight: 2 given"),
        ({"frontend_conf": {"n_mel": 12}}, r"frontend_conf\.n_mel: unknown key; did"),
        ({"optim_conf": {"learning_rate": 1}}, r"optim_conf\.learning_rate: unknown"),
        ({"frontend_conf": {"fs": 8000, "n_mels": 13}}, "statistics of 12 features"),
        ({"optim_conf": {"lr": -1}}, "optim_conf: Invalid learning rate"),
        ({"batch_size": "many"}, "batch_size: 'many'"),
        ({"batch_type": "longest"}, "batch_type: 'longest' given; valid: "),
        (
            {"scheduler": "warmuplr", "scheduler_conf": {"steps": 3}},
            r"\.steps: unknown",
        ),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(
    collected, tmp_path, change, message
):
    out = tmp_path / "exp"
    with pytest.raises(UserError, match=message) as caught:
        collected("--output_dir", out, **change)
    assert "\n" not in str(caught.value)
    assert not (out / "checkpoint.pth").exists()


def test_a_wrong_option_is_named(collected, tmp_path):
    with pytest.raises(UserError, match="unrecognized arguments: --max_epochs 3"):
        collected("--output_dir", tmp_path, "--max_epochs", 3)
    with pytest.raises(UserError, match=r"--attention mtla_s9: .*mha.*mtla_s2"):
        collected("--output_dir", tmp_path, "--attention", "mtla_s9")
    with pytest.raises(UserError, match="missing: --output_dir"):
        collected()


def test_a_symbol_outside_the_list_is_named_unless_allowed(toy, caplog):
    text = toy.train / "text"
    text.write_text(text.read_text().replace("train-03 ", "train-03 Ärger "))
    out = toy.folder / "exp"
    unknown = r"train-03: symbol 'Ärger' is not in the token"
    with pytest.raises(UserError, match=unknown):
        toy("--collect_stats")
    toy("--collect_stats", "--allow_unk", "true")
    with pytest.raises(UserError, match=unknown):
        toy("--output_dir", out)
    assert not out.exists()
    toy("--output_dir", out, "--allow_unk", "true", "--max_epoch", 1)
    assert "train: 1 symbols outside the token list" in caplog.text


def remove_sound(toy) -> None:
    (toy.train / "train-02.wav").unlink()


def empty_text(toy) -> None:
    text = toy.train / "text"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([*lines[:2], "train-02 ", *lines[3:]]) + "\n")


def remove_text(toy) -> None:
    text = toy.train / "text"
    text.write_text("".join(text.read_text().splitlines(True)[1:]))


def stereo(toy) -> None:
    soundfile.write(toy.train / "train-02.wav", np.zeros((3000, 2)), 8000)


def not_a_number(toy) -> None:
    sound = np.full(3000, np.nan, dtype=np.float32)
    soundfile.write(toy.train / "train-02.wav", sound, 8000, subtype="FLOAT")


def nothing(toy) -> None:
    soundfile.write(toy.train / "train-02.wav", np.zeros(0), 8000)


def truncated(toy) -> None:
    path = toy.train / "train-02.wav"
    path.write_bytes(path.read_bytes()[:1044])


def other_rate(toy) -> None:
    soundfile.write(toy.train / "train-00.wav", np.zeros(3000), 16000)


def no_sound_file(toy) -> None:
    (toy.train / "train-00.wav").write_bytes(b"text, not sound")


def too_short(toy) -> None:
    soundfile.write(toy.train / "train-02.wav", np.zeros(100), 8000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_sound, r"wav\.scp: train-02: .*no such file"),
        (empty_text, "train-02"),
        (remove_text, r"text: utterance train-00 of .*wav\.scp is missing"),
        (stereo, r"^train-02: .*train-02\.wav: 2 channels; choose"),
        (not_a_number, r"^train-02: .*train-02\.wav: 3000 samples are NaN or inf"),
        (nothing, r"^train-02: .*train-02\.wav: no samples"),
        (truncated, r"^train-02: .*train-02\.wav: truncated: 1000 of 3280 bytes"),
        (other_rate, r"train-00: 16000 Hz, and frontend_conf\.fs is 8000"),
        (no_sound_file, r"train-00: .*train-00\.wav: unreadable audio: Format not"),
    ],
)
def test_bad_data_is_named_when_it_is_measured(toy, damage, message):
    damage(toy)
    with pytest.raises(UserError, match=message):
        toy("--collect_stats")
    assert not toy.stats.exists()


def test_an_error_in_a_worker_process_is_one_line_too(toy):
    not_a_number(toy)
    with pytest.raises(UserError, match=r"^train-02: .* NaN or infinite") as caught:
        toy("--collect_stats", num_workers=1)
    assert "\n" not in str(caught.value)


def test_sound_truncated_while_training_goes_on_is_one_line(toy):
    toy("--collect_stats")
    truncated(toy)
    message = r"^train-02: .*train-02\.wav: truncated: 1000 of 3280 bytes of samples$"
    with pytest.raises(UserError, match=message):
        toy("--output_dir", toy.folder / "exp")


def test_sound_too_short_for_the_encoder_is_named(toy):
    too_short(toy)
    toy("--collect_stats")
    with pytest.raises(UserError, match="train-02: 2 feature frames are too few"):
        toy("--output_dir", toy.folder / "exp")


def test_statistics_of_other_data_are_refused(toy):
    out = toy.folder / "exp"
    with pytest.raises(
        UserError, match=r"speech_shape: no such file; run train --coll"
    ):
        toy("--output_dir", out)
    toy("--collect_stats")
    for name in ("wav.scp", "text"):
        path = toy.train / name
        path.write_text("".join(path.read_text().splitlines(True)[1:]))
    with pytest.raises(UserError, match=r"train-00 .* --collect_stats again"):
        toy("--output_dir", out)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent.pth", r"absent\.pth: no such file"),
        ("{pth}:encodr:encoder", "has no encodr; it has encoder"),
        ("{pth}:a:b:c:d", "path:source:target:excluded"),
    ],
)
def test_a_wrong_init_param_is_named(collected, tmp_path, spec, message):
    torch.save({"encoder.x": torch.zeros(1)}, tmp_path / "a.pth")
    option = spec.format(pth=tmp_path / "a.pth")
    with pytest.raises(UserError, match=message):
        collected("--output_dir", tmp_path / "exp", "--init_param", option)


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

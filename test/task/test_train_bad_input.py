"""The ``train`` command names wrong settings, options, tables and sound files."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from espnet_mtla.errors import UserError


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
        ({"grad_clip": 0}, "grad_clip: 0.0 given, a number > 0"),
        ({"grad_clip": "nan"}, "grad_clip: nan given, a number > 0"),
        ({"accum_grad": 0}, "accum_grad: 0 given, a number >= 1"),
        ({"max_epoch": 0}, "max_epoch: 0 given, a number >= 1"),
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
    triple = "data/wav.scp,speech,sound"
    with pytest.raises(UserError, match="name_and_type: use --train_data FOLDER"):
        options = ("--train_data_path_and_name_and_type", triple)
        collected("--output_dir", tmp_path, *options)
    with pytest.raises(UserError, match="valid_shape_file: use --stats_dir FOLDER"):
        collected("--output_dir", tmp_path, valid_shape_file=["x"])
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
        UserError, match=r"speech_shape: no such file; run espnet-mtla train"
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

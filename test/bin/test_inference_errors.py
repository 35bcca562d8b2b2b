import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_mtla.bin import inference
from espnet_mtla.errors import UserError
from test.support.tiny_experiment import FS, SECONDS, make_data, make_model


@pytest.fixture
def fails(model, data, tmp_path, command):
    def call(match, **changes):
        options = {"model_dir": model, "data": data} | changes
        with pytest.raises(UserError, match=match) as caught:
            command(inference, **options, output_dir=tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    return call


def test_no_folder(fails, tmp_path):
    fails("nowhere: no such folder", model_dir=tmp_path / "nowhere")


def test_no_parameters(fails, model, tmp_path):
    (tmp_path / "config.yaml").write_text((model / "config.yaml").read_text())
    fails("model.pth: no such file; .*average", model_dir=tmp_path)


def test_no_config(fails, model, tmp_path):
    (tmp_path / "model.pth").write_bytes((model / "model.pth").read_bytes())
    fails("config.yaml: no such file", model_dir=tmp_path)


def test_no_data(fails, tmp_path):
    fails("nowhere: no such data folder", data=tmp_path / "nowhere")


def test_empty_data(fails, tmp_path):
    (tmp_path / "wav.scp").write_text("")
    fails("wav.scp: no utterances", data=tmp_path)


def test_missing_recording(fails, tmp_path):
    (tmp_path / "wav.scp").write_text(f"u0 {tmp_path}/gone.wav\n")
    fails("u0: .*gone.wav", data=tmp_path)


def test_wrong_rate(fails, tmp_path):
    data = make_data(tmp_path / "data", fs=16000)
    fails("u0: the sound has 16000 Hz, the model takes 8000 Hz", data=data)


def test_wrong_rate_behind_a_table_of_lengths(fails, tmp_path):
    data = make_data(tmp_path / "data", fs=16000)
    lines = [f"u{i} {int(s * FS)}\n" for i, s in enumerate(SECONDS)]
    (data / "utt2num_samples").write_text("".join(lines))
    fails("u1: the sound has 16000 Hz, the model takes 8000 Hz", data=data)


def test_nan(fails, tmp_path):
    data = make_data(tmp_path / "data")
    samples, _ = soundfile.read(data / "u2.wav", dtype="float32")
    samples[100] = np.nan
    soundfile.write(data / "u2.wav", samples, FS, subtype="FLOAT")
    fails("u2: .*NaN", data=data)


def test_stereo(fails, tmp_path):
    data = make_data(tmp_path / "data")
    soundfile.write(data / "u2.wav", np.zeros((FS, 2), np.float32), FS)
    fails("u2: .*2 channels", data=data)


def test_too_short(fails, tmp_path):
    data = make_data(tmp_path / "data", seconds=[0.5, 0.03])
    fails("u1: .* too few", data=data)


def test_unknown_key(fails, tmp_path):
    (tmp_path / "x.yaml").write_text("beam: 10\n")
    fails(
        "x.yaml: unknown option 'beam'; valid: beam_size, ", config=tmp_path / "x.yaml"
    )


def test_the_command_line_wins_and_beam_0(fails, tmp_path):
    (tmp_path / "x.yaml").write_text("beam_size: 10\n")
    fails("beam_size: 0 given", config=tmp_path / "x.yaml", beam_size=0)


def test_ctc_of_a_model_without(fails, tmp_path):
    folder = make_model(tmp_path / "exp", ctc_weight=0.0)
    fails("ctc_weight 0.3: .* has no CTC", model_dir=folder, ctc_weight=0.3)


def test_no_gpu(fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fails("no CUDA device", ngpu=1)


def test_features(fails, model, tmp_path):
    config = yaml.safe_load((model / "config.yaml").read_text())
    config |= {"frontend": None, "input_size": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    names = torch.load(model / "model.pth", weights_only=True)
    names = {k: v for k, v in names.items() if not k.startswith("frontend.")}
    torch.save(names, tmp_path / "model.pth")
    fails("takes features", model_dir=tmp_path)


def test_diverged_model(fails, model, tmp_path):
    (tmp_path / "config.yaml").write_text((model / "config.yaml").read_text())
    parameters = torch.load(model / "model.pth", weights_only=True)
    parameters["decoder.norm.weight"].fill_(float("nan"))
    torch.save(parameters, tmp_path / "model.pth")
    fails("^u1: the model computes scores that are NaN", model_dir=tmp_path)

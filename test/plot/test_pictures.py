"""Figures from a real run: their content, and errors for missing input."""

from __future__ import annotations

import sys

import pytest
import torch
from matplotlib.image import imread

from espnet_mtla.bin import plot
from espnet_mtla.errors import UserError
from espnet_mtla.plot import curves
from espnet_mtla.plot.utterance import decode_with_maps, draw_utterance


@pytest.fixture
def run(monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["plot", *map(str, words)])
        plot.main()

    return call


@pytest.fixture(scope="session")
def picture(speech2text, data):
    from espnet_mtla.recognise.recogniser import Recogniser

    recogniser = Recogniser(speech2text.trained, speech2text.options)
    clip = speech2text.reader.clip(data / "u2.wav")
    return decode_with_maps(recogniser, "u2", clip.read())


def test_one_utterance(picture):
    assert picture.tokens[-1] == "<eos>" and len(picture.tokens) > 3
    assert picture.frames * picture.shift == pytest.approx(picture.seconds, abs=0.1)
    figure = draw_utterance(picture)
    spectrogram, merging, attention = figure.axes[:3]
    assert spectrogram.images[0].get_array().shape[1] == len(picture.features)
    assert merging.images[0].get_array().shape == (2, picture.frames)
    shown = attention.images[0].get_array()
    assert shown.shape == (len(picture.tokens), picture.frames)
    labels = [label.get_text() for label in attention.get_yticklabels()]
    assert labels == picture.tokens
    assert (
        shown != draw_utterance(picture, layer=0).axes[2].images[0].get_array()
    ).any()
    assert (
        shown != draw_utterance(picture, head=1).axes[2].images[0].get_array()
    ).any()


def test_layers_and_heads_that_are_not_there(picture):
    with pytest.raises(UserError, match="--layer 2: there are 2, 0 to 1"):
        draw_utterance(picture, layer=2)
    with pytest.raises(UserError, match="--head 4: there are 4, 0 to 3"):
        draw_utterance(picture, head=4)


def test_the_attention_command(run, model, data, tmp_path, capsys):
    out = tmp_path / "a.png"
    run("attention", model, data / "u0.wav", "--output", out, "--beam_size", 2)
    assert imread(out).shape[0] > 300 and "written: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"a\.pdf: the name must end in \.png"):
        run("attention", model, data / "u0.wav", "--output", tmp_path / "a.pdf")


def test_an_encoder_has_nothing_to_look_with(tmp_path, data, run):
    from test.support.tiny_experiment import make_model

    folder = make_model(tmp_path / "encoder", ctc_weight=1.0)
    out = tmp_path / "a.png"
    with pytest.raises(UserError, match="the model has no decoder"):
        run("attention", folder, data / "u0.wav", "--output", out)
    assert not out.exists()


def trained(folder, losses):
    """A folder as the trainer leaves it."""
    stats = {
        epoch: {
            "train": {"loss": loss / 2, "acc": 0.5},
            "valid": {"loss": loss, "acc": float("nan")},
        }
        for epoch, loss in enumerate(losses, start=1)
    }
    folder.mkdir()
    torch.save({"reporter": {"epoch": 3, "stats": stats}}, folder / "checkpoint.pth")
    return folder


def test_learning_curves(run, tmp_path):
    one = trained(tmp_path / "asr_mha", [3.0, 2.0, 1.0])
    other = trained(tmp_path / "asr_mtla_s2", [4.0, float("nan"), 2.0])
    figure = curves.draw_curves(
        {p.name: curves.read_stats(p) for p in (one, other)}, ["loss"]
    )
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines
    }
    assert lines["asr_mha"] == [[1, 3.0], [2, 2.0], [3, 1.0]]
    assert lines["asr_mtla_s2"] == [[1, 4.0], [3, 2.0]]
    out = tmp_path / "c.png"
    run("curves", one, other, "--names", "loss", "--output", out)
    assert imread(out).shape[0] > 300


def test_curves_that_cannot_be_drawn(run, tmp_path):
    one = trained(tmp_path / "asr_mha", [3.0, 2.0])
    out = ["--output", tmp_path / "c.png"]
    with pytest.raises(UserError, match="--names acc: not recorded; acc, loss are"):
        run("curves", one, *out)
    with pytest.raises(UserError, match=r"no checkpoint\.pth: nothing was trained"):
        run("curves", tmp_path, *out)
    with pytest.raises(UserError, match="two experiments have one name"):
        run("curves", one, one, *out)


def test_quality_of_all_types(run, tmp_path):
    from test.support.scored_experiments import SYSTEMS, make_experiment

    made = [make_experiment(tmp_path, f"asr_{name}", name) for name in SYSTEMS]
    out = tmp_path / "q.png"
    run("quality", *made, "--output", out)
    assert imread(out).shape[1] > 1000
    with pytest.raises(UserError, match="--metric per: one of wer, "):
        run("quality", *made, "--metric", "per", "--output", out)

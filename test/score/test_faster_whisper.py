"""The reference system: what it asks of faster-whisper, and how it writes answers."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError
from espnet_mtla.score.baseline import BASELINES, Question
from espnet_mtla.score.faster_whisper import Options


@pytest.fixture
def calls(monkeypatch):
    """Stand in for the package; return the arguments of its calls."""
    calls = []

    class WhisperModel:
        def __init__(self, name: str, **_: object) -> None:
            if name == "huge":
                raise ValueError("Invalid model size 'huge'\nsecond line")

        def transcribe(self, samples: np.ndarray, **options: object):
            calls.append((samples.dtype, len(samples), options))
            parts = (" Ik heb", " 't Gezien!")
            return (SimpleNamespace(text=part) for part in parts), None

    module = ModuleType("faster_whisper")
    module.WhisperModel = WhisperModel
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    return calls


def make_question(tmp_path, text: str, rate: int = 16000, **options) -> Question:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.zeros(rate // 2), rate)
    tables = {"text": {"a": text}, "utt2spk": {"a": "a"}, "utt2lang": {"a": "nl"}}
    DataFolder(tmp_path, {"a": str(wav)}, tables).write(tmp_path / "test")
    return Question(
        tmp_path / "test", tmp_path / "test", "text", "", Options(**options)
    )


def test_answers_are_written_like_the_training_texts(calls, tmp_path):
    answer = BASELINES["faster_whisper"]
    assert answer(make_question(tmp_path, "ja")) == {"a": "ik heb 't gezien"}
    assert answer(make_question(tmp_path, "Ja!")) == {"a": "Ik heb 't Gezien!"}
    dtype, samples, options = calls[0]
    assert dtype == np.float32 and samples == 8000
    assert options["language"] == "nl" and options["task"] == "transcribe"


def test_translation_is_into_english(calls, tmp_path):
    BASELINES["faster_whisper"](make_question(tmp_path, "Yes.", translate=True))
    assert calls[0][2]["task"] == "translate"


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 8000}, "a: 8000 Hz, Whisper takes 16000"),
        ({"model": "huge"}, "--whisper_model huge: Invalid model size 'huge'$"),
        ({"model": "no/folder"}, r"--whisper_model no/folder: no model\.bin in this"),
    ],
)
def test_bad_input_is_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        BASELINES["faster_whisper"](make_question(tmp_path, "ja", **options))


def test_the_package_is_optional(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(UserError, match="pip install faster-whisper"):
        BASELINES["faster_whisper"](make_question(tmp_path, "ja"))

"""All interfaces of decoding form batches by the free memory in the same way."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import soundfile
import torch

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.recognise import batches
from espnet_mtla.recognise.load import TrainedModel, choose_device
from espnet_mtla.recognise.recogniser import Recogniser
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.search.options import DecodeOptions
from test.support.tiny_experiment import FS, SECONDS, make_text_model, make_texts

OPTIONS = {"beam_size": 3, "min_length_ratio": 0.15}


@pytest.fixture
def sizes(monkeypatch):
    """Utterances of each batch that is decoded; ``free`` bytes of memory."""
    decoded: list[int] = []
    decode = Recogniser._decode

    def spy(self, batch):
        decoded.append(len(batch))
        return decode(self, batch)

    monkeypatch.setattr(Recogniser, "_decode", spy)
    return decoded


@pytest.fixture
def free(monkeypatch):
    def set_free(count):
        monkeypatch.setattr(batches, "free_bytes", lambda _: count)

    return set_free


@pytest.fixture
def sounds(data):
    names = [data / f"u{number}.wav" for number in range(len(SECONDS))]
    return [soundfile.read(name, dtype="float32")[0] for name in names]


@pytest.fixture
def doors(model, data, sounds, tmp_path, monkeypatch):
    """Each decodes six utterances."""

    def command():
        from espnet_mtla.bin import inference

        words = ["--model_dir", str(model), "--data", str(data), "--beam_size", "3"]
        words += ["--output_dir", str(tmp_path / "out"), "--min_length_ratio", "0.15"]
        monkeypatch.setattr(sys, "argv", ["inference", *words])
        inference.main()

    def call():
        Speech2Text.from_pretrained(model, device="cpu", **OPTIONS)(sounds, FS)

    def parts():
        long = {"longest_seconds": 0.8, "device": "cpu"}
        cutting = Speech2Text.from_pretrained(model, **long, **OPTIONS)
        noise = torch.randn(int(3.5 * FS), generator=torch.Generator().manual_seed(0))
        assert cutting(noise.clamp(-1, 1), FS).parts == 6

    def generate():
        from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq

        rows = [torch.from_numpy(sound) for sound in sounds]
        ones = [torch.ones_like(row, dtype=torch.long) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        wrapped = MTLAForSpeechSeq2Seq.from_packed(model)
        wrapped.generate(pad(rows, True), pad(ones, True), **OPTIONS)

    return {"inference": command, "Speech2Text": call, "cut": parts, "hf": generate}


@pytest.mark.parametrize("door", ["inference", "Speech2Text", "cut", "hf"])
def test_every_door_plans_for_the_memory(door, doors, sizes, free) -> None:
    warm_up = [1] if door == "inference" else []
    free(2**40)
    doors[door]()
    assert sizes == [*warm_up, 6]
    sizes.clear()
    free(1)
    doors[door]()
    # The longest alone; the two shortest together are not larger.
    assert sizes == [*warm_up, *([1] * 6 if door == "cut" else [2, 1, 1, 1, 1])]


def test_results_come_in_the_order_of_the_sounds(model, sounds, free) -> None:
    options = DecodeOptions(**OPTIONS, batch_frames=100)
    trained = TrainedModel.from_folder(model, choose_device("cpu"), options)
    free(None)
    inputs = [Sound(f"u{number}", sound) for number, sound in enumerate(sounds)]
    recogniser = Recogniser(trained, options)
    results = recogniser.in_batches(inputs)
    assert [result.key for result in results] == [one.key for one in inputs]
    alone = [recogniser([one])[0] for one in inputs]
    assert [r.nbest[0].tokens for r in results] == [r.nbest[0].tokens for r in alone]
    assert recogniser.in_batches([]) == []


def test_a_text_is_counted_in_tokens(tmp_path, sizes, free) -> None:
    """300 tokens are 300 frames of ``batch_frames``, not 300 s of sound."""
    model = make_text_model(tmp_path / "exp")
    options = DecodeOptions(beam_size=2, max_length_ratio=-3, batch_frames=600)
    trained = TrainedModel.from_folder(model, choose_device(0), options)
    free(None)
    long = [Sound(key, torch.full((300,), 3).numpy()) for key in "abc"]
    results = Recogniser(trained, options).in_batches(long)
    assert sizes == [2, 1] and trained.unit == "token"
    assert [(r.unit, r.audio_seconds) for r in results] == [("token", 300)] * 3


def test_a_text_beyond_memory_is_named_in_tokens(tmp_path, monkeypatch) -> None:
    model = make_text_model(tmp_path / "exp")
    options = DecodeOptions(beam_size=2, max_length_ratio=-3)
    trained = TrainedModel.from_folder(model, choose_device(0), options)

    def no_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Recogniser, "_decode", no_memory)
    with pytest.raises(UserError, match=r"^a: 30 tokens alone do not fit"):
        Recogniser(trained, options)([Sound("a", torch.full((30,), 3).numpy())])


def test_lines_of_utterances_say_their_unit(model, data, tmp_path, monkeypatch) -> None:
    import json

    from espnet_mtla.bin import inference

    text_model, texts = make_text_model(tmp_path / "exp"), make_texts(tmp_path / "t")
    for folder, inputs, unit, length in (
        (model, data, "second", SECONDS[0]),
        (text_model, texts, "token", 7),
    ):
        words = ["--model_dir", str(folder), "--data", str(inputs), "--beam_size", "2"]
        words += ["--output_dir", str(tmp_path / unit), "--max_length_ratio", "-3"]
        monkeypatch.setattr(sys, "argv", ["inference", *words])
        inference.main()
        lines = (tmp_path / unit / "utterances.jsonl").read_text().splitlines()
        first = json.loads(lines[0])
        assert first["unit"] == unit
        assert first["audio_seconds"] == pytest.approx(length, abs=1e-3)


def test_devices(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = torch.device("cpu")
    assert choose_device("auto") == choose_device("cpu") == choose_device(0) == cpu
    for name, message in (
        (1, "--ngpu 1: torch sees no CUDA device here; use --ngpu 0"),
        ("cuda:1", "device cuda:1: torch sees no CUDA device here; use cpu"),
        ("gpu7", "device 'gpu7': auto, cpu, cuda or cuda:1"),
    ):
        with pytest.raises(UserError, match=message):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device(1) == torch.device("cuda")
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UserError, match="cuda:2: torch sees 2 CUDA devices here"):
        choose_device("cuda:2")


def test_ctc_of_another_text_is_refused_by_every_door(model) -> None:
    options = DecodeOptions(ctc_weight=0.3)
    trained = TrainedModel.from_folder(model, choose_device(0), options)
    translating = replace(trained, task="st", source_text="text.en")
    for door in (Recogniser, Speech2Text):
        door(trained, options)
        with pytest.raises(UserError, match=r"CTC was trained on the table text\.en"):
            door(translating, options)

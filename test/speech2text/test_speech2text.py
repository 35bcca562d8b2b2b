"""Sound in any form gives the text of the recipe's decoding."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.batches import make_batches
from espnet_mtla.recognise.load import trained_seconds
from espnet_mtla.recognise.utterances import list_utterances, read_sound
from espnet_mtla.speech2text.result import Alternative, Transcript, joined
from test.support.tiny_experiment import FS, SECONDS, make_text_model


def read(data, number):
    return soundfile.read(data / f"u{number}.wav", dtype="float32")[0]


def test_text_and_scores_are_the_recipes(speech2text, data):
    """Paths, in one call, against what bin/inference does with the data folder."""
    from espnet_mtla.recognise.recogniser import Recogniser, Sound

    recogniser = Recogniser(speech2text.trained, speech2text.options)
    expected = {}
    utterances = list_utterances(data, FS)
    for indices in make_batches([u.frames for u in utterances], 200):
        batch = [utterances[index] for index in indices]
        for result in recogniser([Sound(u.key, read_sound(u, FS)) for u in batch]):
            expected[result.key] = result.nbest
    names = speech2text.trained.model.token_list
    files = [data / f"u{i}.wav" for i in range(len(SECONDS))]
    found = speech2text(files)
    for number, transcript in enumerate(found):
        nbest = expected[f"u{number}"]
        assert transcript.key == str(files[number])
        assert [a.tokens for a in transcript.nbest] == [
            tuple(names[t] for t in hypothesis.tokens) for hypothesis in nbest
        ]
        assert transcript.score == pytest.approx(nbest[0].score, abs=1e-3)
        assert str(transcript) == transcript.nbest[0].text
        assert transcript.seconds == pytest.approx(SECONDS[number], abs=1e-3)
    assert len({t.text for t in found}) > 2, "too easy a test"


def test_every_form_of_sound_gives_the_same(speech2text, data):
    path, samples = data / "u2.wav", read(data, 2)
    expected = speech2text(path).text
    assert expected
    both = np.stack([samples, samples])
    forms = [
        (str(path), None),
        (samples, FS),
        (samples.astype(np.float64), FS),
        (torch.from_numpy(samples), FS),
        (both, FS),
        (both.T, FS),
        ({"array": samples, "sampling_rate": FS}, None),
    ]
    for sound, rate in forms:
        assert speech2text(sound, rate).text == expected
    several = speech2text([path, samples, samples[: FS // 2]], FS)
    assert [t.text for t in several[:2]] == [expected] * 2
    assert several[2].seconds == 0.5


def test_other_rates_and_channels_are_changed_and_told_once(speech2text, caplog):
    time = np.arange(2 * 16000) / 16000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        clips = [
            speech2text.reader.clip(np.stack([tone, 0 * tone]), 16000, "twice")
            for _ in range(2)
        ]
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert "16000 Hz brought to 8000 Hz, 2 channels mixed to one" in said
    samples = clips[0].read()
    assert len(samples) == 2 * FS and samples.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * FS) / FS)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=1e-3)


def test_long_recordings_are_cut_at_pauses(model, data):
    pause = np.zeros(int(0.3 * FS), np.float32)
    loud = [read(data, number) for number in (0, 2, 4)]
    whole = np.concatenate([x for part in loud for x in (part, pause)])
    options = {"device": "cpu", "beam_size": 2, "min_length_ratio": 0.15}
    cutting = Speech2Text.from_pretrained(model, longest_seconds=1.8, **options)
    found = cutting(whole, FS, timestamps=True)
    assert found.parts == 3 and found.seconds == pytest.approx(len(whole) / FS)
    assert len(found.text.split()) == len(found.words)
    starts = [word.start for word in found.words]
    assert starts == sorted(starts) and found.words[-1].end <= found.seconds
    uncut = Speech2Text.from_pretrained(model, longest_seconds=None, **options)
    assert uncut(whole, FS).parts == 1


def test_recordings_longer_than_is_usual_in_training_are_cut(model, tmp_path, caplog):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["trained_seconds"] = 1.5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * FS).astype(np.float32)
    options = {"device": "cpu", "beam_size": 1}
    cutting = Speech2Text.from_pretrained(folder, **options)
    assert cutting(noise[: int(1.6 * FS)], FS).parts == 1
    with caplog.at_level(logging.INFO):
        assert cutting(noise[: int(1.7 * FS)], FS).parts == 2
    assert "parts of at most 1.5 s" in caplog.text
    asked = Speech2Text.from_pretrained(folder, longest_seconds=2.0, **options)
    assert asked(noise[: int(2.4 * FS)], FS).parts == 2
    unknown = Speech2Text.from_pretrained(model, **options)
    assert unknown.longest_seconds == unknown.part_seconds == 30


@pytest.mark.parametrize(
    "given",
    ["6.4", [], [5.0], 0, -1, float("nan"), float("inf"), True],
)
def test_lengths_of_training_that_are_none_are_named(given):
    with pytest.raises(UserError, match=r"config\.yaml: trained_seconds: .* given"):
        trained_seconds({"trained_seconds": given})


def test_parts_are_as_long_as_the_whole():
    parts = [
        Transcript("a", n, "x", -1.0, (Alternative("x", (), -1.0),)) for n in (0.1, 0.2)
    ]
    assert joined("a", parts, [0.0, 0.1]).seconds == 0.3


def test_cuts_lie_in_the_quietest_places():
    from espnet_mtla.speech2text.split import cut_points

    generator = np.random.default_rng(0)
    samples = generator.normal(0, 0.3, 10 * FS).astype(np.float32)
    for second in (1.5, 3.0, 4.6, 6.1, 7.5, 9.0):
        samples[int((second - 0.15) * FS) : int((second + 0.15) * FS)] = 0
    points = cut_points(samples, FS, 2.0)
    assert points[0] == 0 and points[-1] == len(samples)
    assert all(0 < b - a <= 2 * FS for a, b in pairwise(points))
    assert all(not samples[point] for point in points[1:-1])
    assert cut_points(samples, FS, 10.0) == [0, len(samples)]
    for longest in (0.1, 0.01, 1e-9):  # shorter than the pauses that are looked for
        most = max(2, longest * FS)
        points = cut_points(samples[:FS], FS, longest)
        assert all(0 < b - a <= most for a, b in pairwise(points))


def test_options_come_from_the_folder_unless_given(model, tmp_path):
    for name in ("config.yaml", "model.pth"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    (tmp_path / "decode.yaml").write_text("beam_size: 4\nctc_weight: 0.3\n")
    load = Speech2Text.from_pretrained
    assert load(tmp_path).options.ctc_weight == 0.3
    assert load(tmp_path, ctc_weight=0.0).options.beam_size == 4
    assert load(tmp_path, nbest=6).options.beam_size == 6
    assert load(tmp_path, maxlenratio=0.5).options.max_length_ratio == 0.5
    (tmp_path / "decode.yaml").write_text("beem_size: 4\n")
    with pytest.raises(UserError, match=r"decode\.yaml: unknown option 'beem_size'"):
        load(tmp_path)


def test_intents_and_translations_come_by_the_same_call(model, data, tmp_path):
    config = yaml.safe_load((model / "config.yaml").read_text())
    (tmp_path / "model.pth").write_bytes((model / "model.pth").read_bytes())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "task": "slu"}))
    options = {"device": "cpu", "beam_size": 3, "min_length_ratio": 0.15}
    plain = Speech2Text.from_pretrained(model, **options)(data / "u2.wav")
    found = Speech2Text.from_pretrained(tmp_path, **options)(
        data / "u2.wav", timestamps=True
    )
    assert found.intent and f"{found.intent} {found.text}".strip() == plain.text
    assert len(found.words) == len(found.text.split()) and plain.intent is None
    config |= {"task": "st", "source_text": "text.en"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    translating = Speech2Text.from_pretrained(tmp_path, **options)
    assert translating(data / "u2.wav").text == plain.text
    with pytest.raises(UserError, match="CTC tells the words spoken, not those wri"):
        translating(data / "u2.wav", timestamps=True)


def test_a_model_of_text_names_the_command_for_it(tmp_path):
    make_text_model(tmp_path)
    with pytest.raises(UserError, match=r"takes texts.*inference decodes a data fol"):
        Speech2Text.from_pretrained(tmp_path)


def test_importing_it_is_light():
    code = (
        "import sys; from espnet_mtla import speech2text; import espnet_mtla;"
        "assert 'Speech2Text' in dir(espnet_mtla); print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert not {"torch", "numpy", "espnet2", "yaml"} & set(shown.stdout.split())


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        ("no/such.wav", None, r"no/such\.wav: no such audio file below /"),
        (np.zeros(100, np.float32), None, "an array needs its sampling rate"),
        (np.zeros(100, np.float32), "16k", "rate: '16k' given, a whole number of Hz"),
        (np.full(100, np.nan), FS, "NaN or infinite"),
        (np.full(100, 1000.0), FS, "reach 1000, floats are to be in"),
        (np.zeros((2, 2, 2)), FS, "ndarray of shape"),
        (np.zeros(0), FS, "ndarray of shape"),
        (None, FS, "NoneType of shape"),
        ({"array": np.zeros(9)}, None, "no 'sampling_rate'"),
        (np.zeros(300, np.float32), FS, "^sound: .*too few"),
    ],
)
def test_bad_sound_is_one_line(speech2text, sound, rate, message):
    with pytest.raises(UserError, match=message) as caught:
        speech2text(sound, rate)
    assert "\n" not in str(caught.value)


def test_a_sound_of_which_nothing_is_left(speech2text, tmp_path):
    samples = np.zeros(1, dtype="float32")
    with pytest.raises(UserError, match="sound: 1 samples at 44100 Hz are none at 80"):
        speech2text(samples, 44100)
    soundfile.write(tmp_path / "click.wav", samples, 44100)
    with pytest.raises(UserError, match=r"click\.wav: 1 samples at 44100 Hz are none"):
        speech2text(tmp_path / "click.wav")


def test_a_file_that_is_no_sound(speech2text, tmp_path, data):
    (tmp_path / "text.wav").write_text("nothing to hear\n")
    (tmp_path / "rm x |").write_bytes((data / "u0.wav").read_bytes())
    with pytest.raises(UserError, match=r"text\.wav: unreadable audio"):
        speech2text([data / "u0.wav", tmp_path / "text.wav"])
    with pytest.raises(UserError, match="a folder; name the files in it"):
        speech2text(tmp_path)
    with pytest.raises(UserError, match="xxx: File name too long"):
        speech2text("x" * 5000)
    with pytest.raises(UserError, match=r"ends in \| is not read"):
        speech2text(tmp_path / "rm x |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 4}, "unknown option 'beam'; valid: beam_size, "),
        ({"device": "gpu7"}, "device 'gpu7': auto, cpu, cuda"),
        ({"longest_seconds": 0}, "longest_seconds: 0 given"),
        ({"longest_seconds": float("nan")}, "longest_seconds: nan given"),
    ],
)
def test_bad_options(model, options, message):
    with pytest.raises(UserError, match=message):
        Speech2Text.from_pretrained(model, **options)


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {"asr_train_config": "{}/config.yaml", "asr_model_file": "{}/model.pth"}),
        ((), {"st_model_file": "{}/model.pth", "beam_size": 3}),
        (("{}/config.yaml", "{}/model.pth"), {"device": "cpu"}),
    ],
)
def test_espnets_constructor_is_refused_with_the_line_to_write(
    model, arguments, keywords
):
    typed = [value.format(model) for value in arguments]
    named = {
        k: v.format(model) if isinstance(v, str) else v for k, v in keywords.items()
    }
    with pytest.raises(UserError) as caught:
        Speech2Text(*typed, **named)
    assert f'Speech2Text.from_pretrained("{model}") loads' in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_tag": "x"}, "name the model in the first argument"),
        ({"asr_train_config": "x"}, "name the model in the first argument"),
        ({"model": "{}", "lm_train_config": "x"}, "lm names the folder of a language"),
        ({"model": "{}", "bpemodel": "x"}, "name the model's folder, which holds"),
        ({"model": "{}", "batch_size": 1}, "batch_frames sets the size of a batch"),
    ],
)
def test_espnets_keywords_are_refused_with_what_to_use(model, options, message):
    if "model" in options:
        options = {**options, "model": model}
    with pytest.raises(UserError, match=message):
        Speech2Text.from_pretrained(**options)


def test_bad_folders(model, tmp_path):
    load = Speech2Text.from_pretrained
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    config = yaml.safe_load((model / "config.yaml").read_text())
    config["token_list"].insert(3, "z")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "model.pth").write_bytes((model / "model.pth").read_bytes())
    with pytest.raises(UserError, match="with 11 tokens, and the token list has 12"):
        load(tmp_path)

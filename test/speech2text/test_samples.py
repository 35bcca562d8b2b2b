"""Arrays of any type are scaled correctly or refused by name."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.search import DecodeOptions
from espnet_mtla.speech2text.samples import check_rate, mix, to_samples
from espnet_mtla.speech2text.sound import SoundReader
from test.support.tiny_experiment import FS

WAVE = np.sin(np.arange(400) / 7)
SIXTEEN = np.round(WAVE * 32767).astype(np.int16)
SMALL = np.round(WAVE * 300)


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20))
def test_int16_is_what_soundfile_reads(values: list[int]) -> None:
    array = np.array(values, np.int16)
    expected = array / np.float32(32768)
    np.testing.assert_array_equal(to_samples(array, "x"), expected)
    np.testing.assert_array_equal(to_samples(torch.from_numpy(array), "x"), expected)
    np.testing.assert_array_equal(to_samples(array.astype(">i2"), "x"), expected)


def test_integers_are_scaled_as_a_file_of_that_type_is(tmp_path) -> None:
    """soundfile's own float32 and int32 of one 16-, 24- and 8-bit file."""
    import soundfile

    for subtype in ("PCM_16", "PCM_24", "PCM_U8"):
        file = tmp_path / f"{subtype}.wav"
        soundfile.write(file, 0.5 * WAVE, FS, subtype=subtype)
        floats, _ = soundfile.read(file, dtype="float32")
        wide, _ = soundfile.read(file, dtype="int32")
        np.testing.assert_allclose(to_samples(wide, "x"), floats, rtol=0, atol=1e-7)
    low = np.array([0, 64, 128, 255], np.uint8)
    np.testing.assert_array_equal(to_samples(low, "x"), [-1, -0.5, 0, 127 / 128])
    signed = (low.astype(int) - 128).astype(np.int8)
    np.testing.assert_array_equal(to_samples(signed, "x"), to_samples(low, "x"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            SIXTEEN.astype(np.int32),
            r"int32 samples reach 32767, .* silence; give int16",
        ),
        (np.array([0, -(2**15)], np.int32), "int32 samples reach 32768"),
        (np.array([1], np.int32), "int32 samples reach 1,"),
        (SIXTEEN.astype(np.int64), "type int64: nothing says .* give int16 by .astype"),
        (torch.from_numpy(SIXTEEN).long(), "type int64: nothing says"),
        (SIXTEEN.tolist(), "type int64: nothing says"),
        (SIXTEEN.astype(np.uint16), "type uint16: nothing says"),
        (SIXTEEN.astype(np.float32), "reach 32767, floats are to be in .* by 32768"),
        (np.round(3 * WAVE), "reach 3, floats are to be in"),
        (WAVE + 1j, "type complex128"),
        (WAVE > 0, "type bool"),
        (WAVE.astype(str), "type <U"),
        ([[0.1, 0.2], [0.3]], "list: not an array of samples: "),
        (object(), "object of shape"),
        (torch.zeros(0), "Tensor|ndarray of shape"),
        (torch.empty(3, device="meta"), "not an array of samples"),
    ],
)
def test_what_would_be_silence_or_noise_is_refused(array: object, message: str) -> None:
    with pytest.raises(UserError, match=f"^x: .*{message}") as caught:
        to_samples(array, "x")
    assert "\n" not in str(caught.value)


def test_silence_and_overshoot_are_no_faults(caplog) -> None:
    assert not to_samples(np.zeros(5, np.int32), "x").any()
    assert not to_samples(np.zeros(5), "x").any()
    assert to_samples(np.array([0.5, 1.2, -1.0]), "x").max() == np.float32(1.2)
    assert to_samples(np.array([1.0, -1.0, 0.0]), "x").min() == -1
    assert not caplog.text
    quiet = to_samples(np.array([2**22, 0], np.int32), "x")
    assert quiet[0] == 2.0**-9 and "x: int32 samples reach 4194304" in caplog.text


def test_forms_of_one_sound(speech2text: Speech2Text) -> None:
    """Strides, order, owners and devices of the memory do not matter."""
    wave = np.random.default_rng(0).normal(0, 0.1, FS).astype(np.float32)
    wave[: FS // 2].cumsum(out=wave[: FS // 2])
    wave = np.clip(wave, -1, 1)
    expected = speech2text(wave, FS)
    locked = wave.copy()
    locked.flags.writeable = False
    forms: list[object] = [
        *(locked, np.repeat(wave, 2)[::2], wave[::-1].copy()[::-1]),
        *(wave[None], wave[:, None], np.asfortranarray(np.stack([wave, wave])).T),
        *(wave.astype(">f4"), wave.astype(np.float64), torch.from_numpy(wave)),
        torch.from_numpy(wave.copy()).requires_grad_(),
        *(torch.from_numpy(wave)[None], {"array": wave.tolist(), "sampling_rate": FS}),
    ]
    for number, form in enumerate(forms):
        found = speech2text(form, FS)
        assert (found.text, found.score) == (expected.text, expected.score), number
    assert expected.text
    half = to_samples(torch.from_numpy(wave).bfloat16(), "x")
    np.testing.assert_allclose(half, wave, atol=1 / 128)
    both, channels = mix(np.stack([wave, 0 * wave]))
    assert channels == 2 and both.shape == wave.shape


def test_samples_are_the_callers_no_more() -> None:
    """A clip read later is the sound as it was given."""
    array = WAVE.astype(np.float32)
    clip = SoundReader(FS).clip(array, FS)
    array[:] = 0
    assert clip.read().any()


@pytest.mark.parametrize(
    "rate",
    [
        *(16000, 16000.0, np.int32(16000), np.int64(16000), np.uint16(16000)),
        *(np.float64(16000), np.float32(16000), np.array(16000), torch.tensor(16000)),
        torch.tensor(16000.0),
    ],
)
def test_rates_of_any_numeric_type(rate: object) -> None:
    found = check_rate(rate, "x")
    assert found == 16000 and type(found) is int
    assert SoundReader(FS).clip(WAVE, rate).seconds == 400 / 16000


@pytest.mark.parametrize(
    "rate",
    [
        *(16000.5, np.float64(0.5), True, np.bool_(True), torch.tensor(True)),
        *("16000", b"16000", "16k", 0, -8000, float("nan"), float("inf"), 16000 + 0j),
        *([16000], np.array([16000]), Fraction(1, 3)),
    ],
)
def test_rates_that_are_none(rate: object) -> None:
    with pytest.raises(UserError, match=r"^x: rate: .*a whole number of Hz"):
        check_rate(rate, "x")


def test_options_of_any_numeric_type(model, speech2text: Speech2Text) -> None:
    options = DecodeOptions(
        beam_size=np.int64(3),
        nbest=torch.tensor(2),
        ctc_weight=np.float32(0.5),
        share_prompt=np.bool_(False),
    )
    json.dumps(dataclasses.asdict(options))  # Python's own, in place
    assert (options.beam_size, options.nbest, options.ctc_weight) == (3, 2, 0.5)
    assert options.share_prompt is False
    load = Speech2Text.from_pretrained
    loaded = load(model, device="cpu", nbest=np.int32(12), longest_seconds=np.int64(9))
    assert loaded.options.beam_size == 12 and loaded.part_seconds == 9
    samples = WAVE.repeat(10)
    assert speech2text(samples, FS, timestamps=np.bool_(True)).words is not None
    with pytest.raises(UserError, match="timestamps: 'word' given, true or false"):
        speech2text(samples, FS, timestamps="word")
    with pytest.raises(UserError, match=r"beam_size: .*True.* given"):
        load(model, beam_size=np.bool_(True))
    with pytest.raises(UserError, match="part_seconds: 0 given"):
        Speech2Text(loaded.trained, options, 5.0, 0)

"""All sources of audio (files, pipes, archives) and all ways to break them."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.data.audio import (
    check_readable,
    open_audio,
    output_length,
    read_span,
    resample,
)
from espnet_mtla.errors import UserError
from test.support.toy_folder import RATE, forget_flac_length, tone

SOUND = tone(1.0)


def read(source: object, **options: object) -> np.ndarray:
    """A whole recording as int16."""
    with open_audio(str(source), run_commands=True) as sound:
        return np.rint(read_span(sound, str(source), **options) * 32768).astype(
            np.int16
        )


def wav_bytes(sound: np.ndarray = SOUND) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, sound, RATE, format="WAV", subtype="PCM_16")
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_file(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"a:1.{suffix}", SOUND, RATE)
    np.testing.assert_array_equal(read(tmp_path / f"a:1.{suffix}"), SOUND)


def test_ogg_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", SOUND / 32768, RATE)
    assert len(read(tmp_path / "a.ogg")) == len(SOUND)


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFF000, 0])
def test_a_header_of_unknown_length(tmp_path: Path, declared: int) -> None:
    """Of a pipe, of a file, and of a place in an archive."""
    data = bytearray(wav_bytes())
    data[40:44] = declared.to_bytes(4, "little")
    for riff in (data[4:8], (36).to_bytes(4, "little"), b"\0\0\0\0"):
        data[4:8] = riff
        (tmp_path / "open").write_bytes(data)
        np.testing.assert_array_equal(read(f"cat '{tmp_path}/open' |"), SOUND)
        np.testing.assert_array_equal(read(tmp_path / "open"), SOUND)


def test_a_recording_without_samples_stays_one(tmp_path: Path) -> None:
    """Data after the last sample is not read as samples."""
    empty = wav_bytes(SOUND[:0])
    notes = b"LIST" + (10).to_bytes(4, "little") + b"INFOabcdef"
    for number, data in enumerate((empty, empty + notes, empty + notes + notes)):
        (tmp_path / f"{number}.wav").write_bytes(data)
        for source in (f"{tmp_path}/{number}.wav", f"cat {tmp_path}/{number}.wav |"):
            with pytest.raises(UserError, match="no samples"):
                read(source)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_without_a_length_is_read_whole(tmp_path: Path, subtype: str) -> None:
    """Of a file and of a pipe; whole blocks and a rest; a part in the middle."""
    file = tmp_path / "open.flac"
    sound = np.tile(SOUND, 9) << 16  # more than one block of decoding
    for length in (1, 1 << 16, (1 << 16) + 1, len(sound)):
        soundfile.write(file, sound[:length], RATE, subtype=subtype)
        expected, _ = soundfile.read(file, dtype="float32")
        forget_flac_length(file)
        assert check_readable(str(file)) == length / RATE
        for source in (str(file), f"cat {file} |"):
            with open_audio(source, run_commands=True) as opened:
                np.testing.assert_array_equal(read_span(opened, source), expected)
    part = read(file, start=0.25, end=0.5) / 32768
    np.testing.assert_allclose(part, expected[4000:8000], atol=2**-15)


def test_flac_without_a_length_that_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "open.flac"
    soundfile.write(file, SOUND, RATE)
    forget_flac_length(file)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"open\.flac: unreadable audio") as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_flac_entries_of_an_archive(tmp_path: Path) -> None:
    """Bare FLAC entries, one after another, read as kaldiio reads them."""
    entries = {}
    with open(tmp_path / "a.ark", "wb") as ark:
        for seed, seconds in enumerate((3.0, 0.5, 1.2)):
            stream = io.BytesIO()
            entries[f"k{seed}"] = tone(seconds, seed=seed)
            soundfile.write(stream, entries[f"k{seed}"], RATE, format="FLAC")
            ark.write(f"k{seed} ".encode())
            place = ark.tell()
            ark.write(stream.getvalue())
            entries[f"k{seed}"] = (place, entries[f"k{seed}"])
    for place, sound in entries.values():
        source = f"{tmp_path}/a.ark:{place}"
        assert check_readable(source) == len(sound) / RATE
        np.testing.assert_array_equal(read(source), sound)
        np.testing.assert_array_equal(read(source, start=0.25), sound[4000:])
        np.testing.assert_array_equal(kaldiio.load_mat(source)[1] * 32768, sound)
    # The last one, cut off in the middle, and one that declares no length.
    data = (tmp_path / "a.ark").read_bytes()
    (tmp_path / "b.ark").write_bytes(data[:-3000])
    with pytest.raises(UserError, match="truncated"):
        read(f"{tmp_path}/b.ark:{place}")
    forget_flac_length(tmp_path / "b.ark", offset=place)
    with pytest.raises(UserError, match="its end cannot be found"):
        read(f"{tmp_path}/b.ark:{place}")


def test_a_header_that_claims_more_than_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    soundfile.write(file, SOUND, RATE)
    data = bytearray(file.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff\xff\xff\xf0"
    file.write_bytes(data)
    for see in (check_readable, read):
        with pytest.raises(UserError, match=r"a\.flac: truncated") as caught:
            see(str(file))
        assert "\n" not in str(caught.value)
    (tmp_path / "a.ark").write_bytes(b"AUDIO\x08" + (2**62).to_bytes(8, "little"))
    with pytest.raises(UserError, match="truncated: 0 of"):
        read(f"{tmp_path}/a.ark:0")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.wav")
    with pytest.raises(UserError, match=r"fifo\.wav: a pipe or a device.* to a file"):
        read(tmp_path / "fifo.wav")
    with pytest.raises(UserError, match=r"/dev/null: a pipe or a device"):
        read("/dev/null")
    with pytest.raises(UserError, match="a folder; name the files in it"):
        read(tmp_path)
    with pytest.raises(UserError, match="File name too long"):
        read("x" * 5000)


def test_pipe_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exit code 3: .*: no licence"):
        read("echo no licence >&2; exit 3 |")
    with pytest.raises(UserError, match="No such file"):
        read(f"cat {tmp_path}/missing | cat |")
    with pytest.raises(UserError, match="wrote no audio"):
        read("true |")
    with pytest.raises(UserError, match="unreadable audio"):
        read("echo this is no sound |")


def test_pipe_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes())
    with pytest.raises(UserError, match="truncated"):
        read(f"dd bs=1000 count=5 status=none if={tmp_path}/a.wav |")


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_archive(tmp_path: Path, kind: str) -> None:
    sounds = {"a": tone(0.5, seed=1), "b": tone(0.7, seed=2)}
    path = str(tmp_path / "x.ark")
    options = (
        {"write_function": "soundfile", "write_kwargs": {"format": "flac"}}
        if kind == "flac"
        else {}
    )
    entries = {key: (RATE, sound) for key, sound in sounds.items()}
    kaldiio.save_ark(path, entries, scp=f"{path}.scp", **options)
    for line in Path(f"{path}.scp").read_text().splitlines():
        key, source = line.split()
        np.testing.assert_array_equal(read(source), sounds[key])


def test_broken_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.ark"
    path.write_bytes(b"a " + wav_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        read(f"{path}:2")
    kaldiio.save_ark(str(path), {"a": {"not": "sound"}}, write_function="pickle")
    with pytest.raises(UserError, match="no audio at this place"):
        read(f"{path}:2")
    with pytest.raises(UserError, match="no audio at this place"):
        read(f"{path}:100000")
    with pytest.raises(UserError, match="no such audio file"):
        read(f"{tmp_path}/y.ark:2")


def test_broken_files(tmp_path: Path) -> None:
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, SOUND, RATE)
    contents = {
        "short.wav": (wav_bytes()[:-1000], "truncated"),
        "short.flac": (whole.read_bytes()[:-5000], "truncated"),
        "empty.wav": (b"", "empty file"),
        "header.wav": (wav_bytes(SOUND[:0]), "no samples"),
        "text.wav": (b"not a sound at all, but text", "unreadable audio"),
        "a.raw": (b"1234", "without a header"),
    }
    for name, (content, message) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            check_readable(str(tmp_path / name))
    with pytest.raises(UserError, match=r"gone\.wav: no such audio file"):
        check_readable(str(tmp_path / "gone.wav"))


def test_truncated_flac_is_found_when_read_whole(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", SOUND, RATE)
    data = (tmp_path / "a.flac").read_bytes()
    for cut in (10, 1000, len(data) // 2):
        (tmp_path / "b.flac").write_bytes(data[:-cut])
        with pytest.raises(UserError, match=r"b\.flac: truncated"):
            read(tmp_path / "b.flac")


def test_channels(tmp_path: Path) -> None:
    other = tone(1.0, seed=1)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([SOUND, other], axis=1), RATE)
    with pytest.raises(UserError, match="2 channels; choose with --channel"):
        read(path)
    with pytest.raises(UserError, match="no channel 2, there are 2"):
        read(path, channel="2")
    np.testing.assert_array_equal(read(path, channel="1"), other)
    mean = (SOUND.astype(float) + other) / 2
    assert np.abs(read(path, channel="mean") - mean).max() <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    sound = SOUND / 32768
    sound[[7, 9]] = bad
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"2 samples are NaN or infinite.* number 7"):
        read(tmp_path / "a.wav")


def test_segments(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, SOUND, RATE)
    np.testing.assert_array_equal(read(path, start=0.25, end=0.5), SOUND[4000:8000])
    np.testing.assert_array_equal(read(path, start=0.25), SOUND[4000:])
    np.testing.assert_array_equal(read(path, start=0.5, end=1.4), SOUND[8000:])
    for start, end in ((1.0, None), (0.5, 1.6)):
        with pytest.raises(UserError, match=r"outside the recording of 1\.00 s"):
            read(path, start=start, end=end)


SPEEDS = st.sampled_from(["0.5", "0.9", "1.0", "1.1", "1.37", "2.0"])
RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100])


@given(st.integers(50, 3000), RATES, RATES, SPEEDS)
def test_resampled_length(samples: int, rate: int, fs: int, speed: str) -> None:
    exact = Fraction(samples * fs, rate) / Fraction(speed)
    assert abs(output_length(samples, rate, fs, speed) - exact) <= Fraction(1, 2)
    changed = resample(np.zeros(samples, np.float32), rate, fs, speed)
    assert len(changed) == output_length(samples, rate, fs, speed)
    assert changed.dtype == np.float32


@pytest.mark.parametrize("speed", ["0.9", "1.1"])
def test_speed_moves_the_pitch(speed: str) -> None:
    time = np.arange(RATE) / RATE
    sound = np.sin(2 * np.pi * 400 * time).astype(np.float32)
    changed = resample(sound, RATE, 8000, speed)
    assert len(changed) == round(8000 / float(speed))
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    peak = spectrum.argmax() * 8000 / len(changed)
    assert abs(peak - 400 * float(speed)) < 2


def test_same_rate_and_speed_changes_nothing() -> None:
    sound = np.ones(10, np.float32)
    assert resample(sound, RATE, RATE, "1") is sound

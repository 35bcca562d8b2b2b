"""format_audio: exact samples, every input, bad sound and repeated runs."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from espnet_mtla.data.audio import open_audio, read_span
from espnet_mtla.data.audio_shards import FORMATS, Settings, to_pcm16
from espnet_mtla.data.format import format_audio
from espnet_mtla.data.table import read_table, write_table
from test.support.toy_folder import RATE, TEXTS, snapshot, tone

Command = Callable[..., tuple[int, str, str]]


def sounds(folder: Path) -> dict[str, np.ndarray]:
    """Every utterance of a formatted folder as int16."""
    found = {}
    for key, source in read_table(folder / "wav.scp").items():
        with open_audio(source) as sound:
            found[key] = to_pcm16(read_span(sound, source))
    return found


@pytest.mark.parametrize("audio_format", FORMATS)
def test_samples_are_exact_in_every_format(
    toy: Path, command: Command, audio_format: str
) -> None:
    write_table(toy / "text.tc.de", TEXTS)
    code, _, err = command("format_audio", toy, "out", "--audio_format", audio_format)
    assert code == 0, err
    assert "in 4 = written 4 + unusable 0 utterances" in err
    for key, sound in sounds(Path("out")).items():
        np.testing.assert_array_equal(
            sound, soundfile.read(wav_of(toy, key), dtype="int16")[0]
        )
        assert read_table("out/utt2num_samples")[key] == str(len(sound))
        assert float(read_table("out/utt2dur")[key]) == len(sound) / RATE
    for name in ("text", "text.tc.de", "utt2spk", "spk2utt"):
        assert read_table(f"out/{name}") == read_table(
            toy / name.replace("text.tc.de", "text")
        )
    assert Path("out/audio_format").read_text() == f"{audio_format}\n"
    assert Path("out/feats_type").read_text() == "raw\n"


def wav_of(folder: Path, key: str) -> str:
    return read_table(folder / "wav.scp")[key]


@pytest.mark.parametrize(
    ("audio_format", "loader"), [("flac", "sound"), ("flac.ark", "kaldi_ark")]
)
def test_espnet_reads_the_sound(toy: Path, audio_format: str, loader: str) -> None:
    from espnet2.train.dataset import DATA_TYPES

    format_audio(toy, "out", Settings(RATE, audio_format))
    read = DATA_TYPES[loader]["func"]("out/wav.scp", float_dtype="float32")
    for key in TEXTS:
        expected, _ = soundfile.read(wav_of(toy, key), dtype="float32")
        np.testing.assert_array_equal(read[key], expected)


def test_archive_is_kaldis(toy: Path) -> None:
    format_audio(toy, "out", Settings(RATE, "flac.ark"))
    for key, source in read_table("out/wav.scp").items():
        rate, sound = kaldiio.load_mat(source)
        expected, _ = soundfile.read(wav_of(toy, key))
        assert rate == RATE
        np.testing.assert_array_equal(sound, expected)


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sound=arrays(np.int16, st.integers(1, 300)),
    audio_format=st.sampled_from(FORMATS),
)
def test_any_samples_come_back(
    tmp_path: Path, sound: np.ndarray, audio_format: str
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        soundfile.write(source / "a.wav", sound, RATE)
        write_table(source / "wav.scp", {"a": f"{source}/a.wav"})
        format_audio(source, target, Settings(RATE, audio_format))
        np.testing.assert_array_equal(sounds(target)["a"], sound)


def test_segments_pipes_archives_and_speeds(toy: Path, command: Command) -> None:
    long = tone(3.0, seed=9)
    soundfile.write("long.flac", long, RATE)
    kaldiio.save_ark("x.ark", {"k": (RATE, tone(1.0, seed=8))})
    write_table(
        toy / "wav.scp", {"r1": "cat long.flac |", "r2": "x.ark:2", "r3": "long.flac"}
    )
    segments = {"a1": "r1 0.5 1.5", "a2": "r2 0 -1", "b/3": "r3 0 1", "é4": "r3 2 3"}
    write_table(toy / "segments", segments)
    code, _, err = command("perturb_speed", toy, "sp", "--factors", "1.0", "0.9")
    assert code == 0, err
    code, _, err = command("format_audio", "sp", "out", "--nj", 2)
    assert code == 0, err
    made = sounds(Path("out"))
    np.testing.assert_array_equal(made["a1"], long[8000:24000])
    np.testing.assert_array_equal(made["a2"], tone(1.0, seed=8))
    np.testing.assert_array_equal(made["é4"], long[32000:])
    assert {len(sound) for key, sound in made.items() if key[:3] == "sp0"} == {17778}
    assert len(made) == 8
    assert not Path("out/segments").exists()
    assert not Path("out/utt2speed").exists()


def test_processes_do_not_change_the_result(toy: Path) -> None:
    format_audio(toy, "out", Settings(), nj=1)
    alone = snapshot(Path("out"))
    subprocess.run(["rm", "-r", "out"], check=True)
    format_audio(toy, "out", Settings(), nj=3)
    assert snapshot(Path("out")) == alone


def test_resampling_and_clipping_are_said(toy: Path, command: Command) -> None:
    loud = np.array([0.5, 1.5, -1.5, 1.0, -1.0] * 400)
    soundfile.write("loud.wav", loud, 8000, subtype="FLOAT")
    write_table(toy / "wav.scp", read_table(toy / "wav.scp") | {"a1": "loud.wav"})
    code, _, err = command("format_audio", toy, "out", "--fs", 8000)
    assert code == 0, err
    assert "3 utterances resampled, 16000 to 8000 Hz" in err
    assert "800 samples beyond full scale were clipped in 1 utterances" in err
    assert sounds(Path("out"))["a1"][:5].tolist() == [
        16384,
        32767,
        -32768,
        32767,
        -32768,
    ]


def break_sound(toy: Path, kind: str) -> None:
    """Give utterance a2 sound that is broken in one way."""
    good = Path(wav_of(toy, "a2"))
    samples, _ = soundfile.read(good)
    if kind == "missing":
        good.unlink()
    elif kind == "truncated wav":
        good.write_bytes(good.read_bytes()[:-100])
    elif kind == "truncated flac":
        soundfile.write("x.flac", samples, RATE)
        good.write_bytes(Path("x.flac").read_bytes()[:-100])
    elif kind == "zero length":
        soundfile.write(good, samples[:0], RATE)
    elif kind == "stereo":
        soundfile.write(good, np.stack([samples, samples], axis=1), RATE)
    elif kind == "nan":
        samples[5] = np.nan
        soundfile.write(good, samples, RATE, subtype="FLOAT")


BROKEN = {
    "missing": "no such audio file",
    "truncated wav": "truncated",
    "truncated flac": "truncated",
    "zero length": "no samples",
    "stereo": "2 channels; choose with --channel",
    "nan": "1 samples are NaN",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_sound_is_named(toy: Path, command: Command, kind: str) -> None:
    break_sound(toy, kind)
    code, _, err = command("format_audio", toy, "out")
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: 1 of 4 utterances of toy cannot be formatted")
    assert "a2: " in last
    assert BROKEN[kind] in last
    assert "Traceback" not in err
    assert not Path("out/wav.scp").exists()
    code, _, err = command("format_audio", toy, "out", "--drop_bad")
    assert code == 0, err
    assert "in 4 = written 3 + unusable 1" in err
    assert BROKEN[kind] in read_table("out/dropped")["a2"]
    assert sorted(sounds(Path("out"))) == sorted(read_table("out/text"))


def test_first_ten_bad_ones_are_listed(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(tmp_path / "a.wav", tone(0.1), RATE)
    wav = {f"u{i:02}": "gone.wav" for i in range(15)}
    write_table(folder / "wav.scp", wav | {"good": f"{tmp_path}/a.wav"})
    code, _, err = command("format_audio", folder, tmp_path / "out", "--nj", 2)
    assert code == 1
    assert err.count("ERROR: u") == 10
    assert "... and 5 more" in err
    assert "15 of 16 utterances" in err


def test_options_are_checked(toy: Path, command: Command) -> None:
    for options, message in (
        (["--fs", 0], "--fs 0"),
        (["--channel", "left"], "--channel left"),
        (["--nj", 0], "--nj 0"),
    ):
        code, _, err = command("format_audio", toy, "out", *options)
        assert (code, message in err) == (1, True)
    code, _, err = command("format_audio", toy, toy)
    assert (code, "same folder" in err) == (1, True)
    write_table(toy / "utt2speed", dict.fromkeys(TEXTS, "fast"))
    code, _, err = command("format_audio", toy, "out")
    assert (code, "utt2speed: a1: 'fast'" in err) == (1, True)


def test_key_too_long_for_a_file_name(toy: Path, command: Command) -> None:
    (toy / "utt2spk").unlink()
    (toy / "text").unlink()
    write_table(toy / "wav.scp", {"k" * 300: wav_of(toy, "a1")})
    code, _, err = command("format_audio", toy, "out")
    assert (code, "too long for a file name; use flac.ark" in err) == (1, True)
    code, _, err = command("format_audio", toy, "out", "--audio_format", "flac.ark")
    assert code == 0, err


def test_second_run_keeps_parts_and_sees_changed_sound(toy: Path) -> None:
    format_audio(toy, "out", Settings())
    before = {
        path: path.stat().st_mtime_ns for path in Path("out/data").rglob("*.flac")
    }
    soundfile.write(wav_of(toy, "a1"), tone(0.5, seed=5), RATE)
    format_audio(toy, "out", Settings())
    after = {path: path.stat().st_mtime_ns for path in Path("out/data").rglob("*.flac")}
    assert [path.stem for path in after if before[path] != after[path]] == ["a1"]
    np.testing.assert_array_equal(sounds(Path("out"))["a1"], tone(0.5, seed=5))


def test_other_settings_replace_everything(toy: Path) -> None:
    write_table(toy / "text.tc.de", TEXTS)
    format_audio(toy, "out", Settings(8000, "flac.ark"))
    (toy / "text.tc.de").unlink()
    format_audio(toy, "out", Settings())
    fresh = snapshot(Path("out"))
    subprocess.run(["rm", "-r", "out"], check=True)
    format_audio(toy, "out", Settings())
    assert snapshot(Path("out")) == fresh

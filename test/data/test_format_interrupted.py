"""format_audio after a kill and on a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mtla.data.audio_shards import FORMATS, _named_errors
from espnet_mtla.data.table import write_table
from test.support.toy_folder import RATE, snapshot, tone

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("moment", [0.0, 0.3])
def test_killed_and_started_again(tmp_path: Path, moment: float) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wav = {}
    for index in range(30):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, tone(0.2, seed=index), RATE)
        wav[f"u{index:02}"] = f"sleep 0.05; cat {path} |"
    write_table(folder / "wav.scp", wav)
    expected, out = tmp_path / "expected", tmp_path / "out"
    call = [sys.executable, "-m", "espnet_mtla.bin.format_audio", str(folder)]
    options = ["--nj", "2", "--audio_format", "flac.ark"]
    subprocess.run([*call, str(expected), *options], check=True, capture_output=True)
    process = subprocess.Popen([*call, str(out), *options], stderr=subprocess.DEVNULL)
    while not list(out.glob("data/part*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(moment)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "wav.scp").exists()
    again = subprocess.run([*call, str(out), *options], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "shards exist already" in again.stderr
    replaced = {
        name: content.replace(str(expected).encode(), str(out).encode())
        for name, content in snapshot(expected).items()
    }
    made = snapshot(out)
    for name in replaced:
        if not name.endswith(("manifest.json", ".lock")):  # .lock names the process
            assert made[name] == replaced[name], name
    assert made.keys() == replaced.keys()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, mounted at ``tmp_path/disk``."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("nj", [1, 2])
def test_full_disk(
    tmp_path: Path, small_disk: Path, command: Command, audio_format: str, nj: int
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wav = {}
    for index in range(8):
        path = tmp_path / f"{index}.wav"
        noise = rng.integers(-32768, 32767, 2 * RATE).astype(np.int16)
        soundfile.write(path, noise, RATE)
        wav[f"u{index}"] = str(path)
    write_table(folder / "wav.scp", wav)
    options = ["--audio_format", audio_format, "--nj", nj]
    out = small_disk / "out"
    code, _, err = command("format_audio", folder, out, *options)
    assert code == 1
    assert "no space left on the device; free some and run again" in err
    assert "Traceback" not in err
    assert not (out / "wav.scp").exists()
    assert not list(out.rglob("*.tmp"))
    for part in (out / "data").iterdir():
        assert (part / "manifest.json").exists(), "a part is there that is not whole"


def test_an_error_of_a_write_without_a_number_keeps_its_words(tmp_path: Path) -> None:
    """Libraries raise ``OSError`` with words alone; there is no number to look up."""
    with (
        pytest.raises(OSError, match=f"{tmp_path}: not seekable"),
        _named_errors(tmp_path),
    ):
        raise OSError("not seekable")

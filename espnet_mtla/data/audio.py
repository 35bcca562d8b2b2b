"""Read one recording: a file, a shell pipe or an offset in a Kaldi archive.

Every source is opened as a :class:`soundfile.SoundFile`, so that an utterance of a long
recording is read by seeking. Archives are not read by kaldiio, because it unpickles
entries and returns a shorter array for a truncated one.

The resampler is soxr, which is also sox's ``rate`` and librosa's default. It accepts
any real ratio, so speed and rate change in one pass, and the worker processes need
neither torch nor librosa.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import soundfile

# Segment ends are often rounded: up to this far beyond the recording they are cut.
MAX_OVERSHOOT_SECONDS = 0.5
# Programs that write to a pipe put a length near the maximum, or 0, into the header.
_UNKNOWN_LENGTH = 0x7FFF_0000
_MOST_FRAMES = 2**48
_ARCHIVE = re.compile(r"(?P<path>.+):(?P<offset>\d+)")


def is_pipe(source: str) -> bool:
    """Return True if a ``wav.scp`` value is a command: it ends in ``|``."""
    return source.endswith("|")


def source_file(source: str) -> Path | None:
    """Return the file that a ``wav.scp`` value reads, or None for a pipe."""
    return None if is_pipe(source) else _split_archive(source)[0]


def _split_archive(source: str) -> tuple[Path, int | None]:
    """Return path and offset; None for an existing file, even with a colon."""
    match = None if os.path.exists(source) else _ARCHIVE.fullmatch(source)
    return (
        (Path(match["path"]), int(match["offset"])) if match else (Path(source), None)
    )


@contextmanager
def open_audio(source: str) -> Iterator[soundfile.SoundFile]:
    """Open a ``wav.scp`` value: path, ``command |`` or ``archive:offset``.

    Raises :class:`UserError` with the source's name if it is missing, empty, truncated
    or of unknown format, or if the command fails (with its last line of output).
    """
    import soundfile

    stream: str | io.BytesIO
    if is_pipe(source):
        stream = io.BytesIO(_repair_length(_run_pipe(source), source))
    else:
        path, offset = _split_archive(source)
        try:
            check_file(path)
            stream = _open_file(path, offset, source)
        except OSError as error:  # no permission, a name that is too long, a bad disk
            raise UserError(f"{path}: {error.strerror}") from None
    try:
        opened = soundfile.SoundFile(stream)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise UserError(f"{source}: unreadable audio: {reason}") from None
    with opened as sound:
        if sound.frames == 0:
            raise UserError(f"{source}: no samples")
        if sound.frames > _MOST_FRAMES:  # how libsndfile reports FLAC of unknown length
            raise UserError(
                f"{source}: its header does not say how long the sound is; decode it "
                "once: flac -d FILE, or ffmpeg -i FILE OUT.wav"
            )
        yield sound


def check_file(path: Path) -> None:
    """Check that ``path`` is a regular, non-empty audio file.

    Raises:
        UserError: it is missing, a folder, a FIFO or device, empty, or headerless.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the files in it")
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path}: a pipe or a device, which can be read only once; write the sound "
            "to a file"
        )
    if not path.is_file():
        here = "" if path.is_absolute() else f" below {Path.cwd()}"
        raise UserError(f"{path}: no such audio file{here}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: empty file")
    if path.suffix.lower() == ".raw":
        raise UserError(f"{path}: samples without a header; pipe it through sox")


def _open_file(path: Path, offset: int | None, source: str) -> str | io.BytesIO:
    """Return what soundfile opens: the path, or bytes with a corrected header."""
    if offset is not None:
        data = _slice_archive(path, offset, source)
        return io.BytesIO(_repair_length(data, source))
    if _left_open(path):
        return io.BytesIO(_repair_length(path.read_bytes(), source))
    return source


def _run_pipe(source: str) -> bytes:
    """Run the command of a ``wav.scp`` value; return its output."""
    command = source.removesuffix("|").strip()
    # pipefail: a failing first command must not pass as a short recording.
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = lines[-1] if lines else "no error message"
        raise UserError(
            f"command failed with exit code {done.returncode}: {command}: {last}"
        )
    if not done.stdout:
        raise UserError(f"command wrote no audio: {command}")
    return done.stdout


def _slice_archive(path: Path, offset: int, source: str) -> bytes:
    """Return one RIFF, FLAC or kaldiio AUDIO entry; check its length."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        head = stream.read(8)
        size = -1  # to the end of the archive
        start = offset
        if head[:5] == b"AUDIO" and len(head) > 5:
            width = head[5]
            start = offset + 6 + width
            stream.seek(offset + 6)
            size = int.from_bytes(stream.read(width), "little")
        elif head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:], "little")
            size = declared + 8 if declared < _UNKNOWN_LENGTH else -1
        elif head[:4] != b"fLaC":
            raise UserError(f"{source}: no audio at this place of the archive")
        stream.seek(start)
        data = stream.read(size)
    if len(data) < size:
        raise UserError(f"{source}: truncated: {len(data)} of {size} bytes")
    return data


def _find_wav_data(head: bytes) -> tuple[int, int] | None:
    """Return the offset of a WAV file's samples and their declared size in bytes."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    position = 12
    while position + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, position)
        if name == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    return None


def _left_open(path: Path) -> bool:
    """Return True if a WAV file has samples but its header declares 0 bytes.

    Raises:
        UserError: the file is truncated, which libsndfile would accept.
    """
    with open(path, "rb") as stream:
        head = stream.read(4)
        if head != b"RIFF":
            return False
        data = _find_wav_data(head + stream.read(1 << 16))
        if data is None:
            return False
        start, declared = data
        size = path.stat().st_size
        if size - start < declared < _UNKNOWN_LENGTH:
            raise UserError(
                f"{path}: truncated: {size - start} of {declared} bytes of samples"
            )
        return declared == 0 and not _only_chunks(stream, start, size)


def _only_chunks(stream: BinaryIO, position: int, end: int) -> bool:
    """Return True if only complete RIFF chunks, or none, lie before ``end``.

    This distinguishes a recording without samples from one without a declared length.
    """
    while position + 8 <= end:
        stream.seek(position)
        name, size = struct.unpack("<4sI", stream.read(8))
        if not (name.isascii() and name.decode().isprintable()):
            return False
        position += 8 + size + size % 2
    return position in (end, end + 1)  # a last byte of padding may be missing


def _repair_length(data: bytes, source: str) -> bytes:
    """Write the actual length into a WAV header that declares none.

    The length is in the four bytes before the samples. A declared length is checked
    and not changed.
    """
    wav_data = _find_wav_data(data[: 1 << 16])
    if wav_data is None:
        return data
    start, declared = wav_data
    actual = len(data) - start
    if actual < declared < _UNKNOWN_LENGTH:
        raise UserError(f"{source}: truncated: {actual} of {declared} bytes of samples")
    empty = declared == 0 and _only_chunks(io.BytesIO(data), start, len(data))
    if declared > actual or (declared == 0 and not empty):
        size = struct.pack("<I", actual)
        riff = struct.pack("<I", len(data) - 8)
        return data[:4] + riff + data[8 : start - 4] + size + data[start:]
    return data


def check_readable(source: str) -> float:
    """Open a recording, read its end, and return its length in seconds."""
    with open_audio(source) as sound:
        _read(sound, max(0, sound.frames - 4096), sound.frames, source)
        return sound.frames / sound.samplerate


def _read(sound: soundfile.SoundFile, start: int, end: int, source: str) -> np.ndarray:
    """Return samples ``start`` to ``end`` as (n, channels) float32 in [-1, 1]."""
    import soundfile

    try:
        sound.seek(start)
        samples = sound.read(end - start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise UserError(f"{source}: truncated or damaged: {reason}") from None
    if len(samples) < end - start:
        raise UserError(
            f"{source}: truncated: sound ends at sample {start + len(samples)} of "
            f"{sound.frames}"
        )
    return samples


def read_span(
    sound: soundfile.SoundFile,
    source: str,
    start: float = 0.0,
    end: float | None = None,
    channel: str | None = None,
) -> np.ndarray:
    """Read one utterance.

    Args:
        sound: the open recording.
        source: its ``wav.scp`` value, for errors.
        start, end: seconds; ``end`` None is the end of the recording.
        channel: a number from 0, ``mean``, or None if the recording must be mono.
    Returns:
        (n,) float32 in [-1, 1].
    Raises:
        UserError: the span is outside the recording or empty, a channel must be chosen
            or does not exist, or samples are not finite.
    """
    import numpy as np

    rate = sound.samplerate
    first = round(start * rate)
    last = sound.frames if end is None else round(end * rate)
    if first >= sound.frames or last > sound.frames + MAX_OVERSHOOT_SECONDS * rate:
        raise UserError(
            f"{source}: segment {start:g} to {end if end is not None else 'end'} s "
            f"is outside the recording of {sound.frames / rate:.2f} s"
        )
    samples = _read(sound, first, min(last, sound.frames), source)
    mono = _choose_channel(samples, source, channel)
    if not len(mono):
        raise UserError(f"{source}: no samples between {start:g} and {end:g} s")
    if not np.isfinite(mono).all():
        bad = np.flatnonzero(~np.isfinite(mono))
        raise UserError(
            f"{source}: {len(bad)} samples are NaN or infinite, the first is "
            f"number {bad[0]}"
        )
    return mono


def _choose_channel(
    samples: np.ndarray, source: str, channel: str | None
) -> np.ndarray:
    """Reduce (n, channels) to (n,)."""
    channels = samples.shape[1]
    if channel == "mean":
        return samples.mean(axis=1)
    if channel is not None:
        if int(channel) >= channels:
            raise UserError(f"{source}: no channel {channel}, there are {channels}")
        return samples[:, int(channel)]
    if channels > 1:
        raise UserError(
            f"{source}: {channels} channels; choose with --channel 0 or --channel mean"
        )
    return samples[:, 0]


def output_length(samples: int, rate: int, fs: int, speed: str = "1.0") -> int:
    """Return the number of samples after resampling ``rate`` to ``fs`` at a speed.

    >>> output_length(8000, 8000, 16000, "2.0")
    8000
    """
    exact = Fraction(samples * fs, rate) / Fraction(speed)
    return int(exact + Fraction(1, 2))


def resample(samples: np.ndarray, rate: int, fs: int, speed: str = "1.0") -> np.ndarray:
    """Resample (n,) at ``rate`` Hz to (n * fs / rate / speed,) at ``fs`` Hz.

    A higher speed also raises the pitch. It equals a higher input rate, so that one
    resampling does both.
    """
    import numpy as np
    import soxr

    if rate == fs and Fraction(speed) == 1:
        return samples
    changed = soxr.resample(samples, rate * float(Fraction(speed)), fs)
    length = output_length(len(samples), rate, fs, speed)
    # soxr's length can differ by a sample; utt2num_samples needs output_length's.
    return np.pad(changed[:length], (0, max(0, length - len(changed))))

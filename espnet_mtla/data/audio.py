"""Reading one recording: a file, a shell pipe or a place in a Kaldi archive.

Everything becomes a :class:`soundfile.SoundFile`, so that an utterance cut from a long
recording is read by seeking. Archives are sliced here, not by kaldiio: it would run
pickled entries and return a shortened array for a truncated one.

Resampling is soxr's, called directly: it is the resampler behind sox's ``rate`` and
librosa's default, takes any real ratio (so a change of speed and of rate is one pass),
and needs neither torch nor librosa in the worker processes.
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

# Segment ends are rounded by whoever wrote them: this much beyond the end is cut off.
MAX_OVERSHOOT_SECONDS = 0.5
# Programs that cannot seek back write a length close to the largest one, or none.
_UNKNOWN_LENGTH = 0x7FFF_0000
_MOST_FRAMES = 2**48
_ARCHIVE = re.compile(r"(?P<path>.+):(?P<offset>\d+)")


def is_pipe(source: str) -> bool:
    """True if a ``wav.scp`` value is a command: it ends in ``|``."""
    return source.endswith("|")


def source_file(source: str) -> Path | None:
    """The file that a ``wav.scp`` value reads, None for a pipe."""
    return None if is_pipe(source) else _split_archive(source)[0]


def _split_archive(source: str) -> tuple[Path, int | None]:
    """Path and offset; None for a plain file, which may have a colon in its name."""
    match = None if os.path.exists(source) else _ARCHIVE.fullmatch(source)
    return (
        (Path(match["path"]), int(match["offset"])) if match else (Path(source), None)
    )


@contextmanager
def open_audio(source: str) -> Iterator[soundfile.SoundFile]:
    """Open a ``wav.scp`` value: path, ``command |`` or ``archive:offset``.

    Raises :class:`UserError`, naming the source, if it is missing, empty, truncated or
    in no known format, and if the command fails (with the end of what it said).
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
        if sound.frames > _MOST_FRAMES:  # FLAC's 0 for "unknown", to libsndfile
            raise UserError(
                f"{source}: its header does not say how long the sound is; decode it "
                "once: flac -d FILE, or ffmpeg -i FILE OUT.wav"
            )
        yield sound


def check_file(path: Path) -> None:
    """Require a file that can be read more than once, by seeking.

    Raises:
        UserError: nothing there, a folder, a FIFO, or an empty file; says which.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the files in it")
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path}: a pipe or a device, which can be read but once; write the sound "
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
    """What soundfile is to open: the file itself, or bytes of it put right."""
    if offset is not None:
        data = _slice_archive(path, offset, source)
        return io.BytesIO(_repair_length(data, source))
    if _left_open(path):
        return io.BytesIO(_repair_length(path.read_bytes(), source))
    return source


def _run_pipe(source: str) -> bytes:
    command = source.removesuffix("|").strip()
    # pipefail: a failing first command must not pass as a short recording.
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = said[-1] if said else "it said nothing"
        raise UserError(
            f"command failed with exit code {done.returncode}: {command}: {last}"
        )
    if not done.stdout:
        raise UserError(f"command wrote no audio: {command}")
    return done.stdout


def _slice_archive(path: Path, offset: int, source: str) -> bytes:
    """The bytes of one sound: RIFF, FLAC or kaldiio's AUDIO entry, length checked."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        head = stream.read(8)
        size = -1  # as far as the archive goes
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
    """Where a RIFF file's samples begin, and how many bytes it says they are."""
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
    """True of a WAV file whose header says 0 bytes of samples, and which has some.

    Raises:
        UserError: it ends before it says, which libsndfile would take.
    """
    with open(path, "rb") as stream:
        head = stream.read(4)
        found = _find_wav_data(head + stream.read(1 << 16)) if head == b"RIFF" else None
        if found is None:
            return False
        start, declared = found
        size = path.stat().st_size
        if size - start < declared < _UNKNOWN_LENGTH:
            raise UserError(
                f"{path}: truncated: {size - start} of {declared} bytes of samples"
            )
        return declared == 0 and not _only_chunks(stream, start, size)


def _only_chunks(stream: BinaryIO, position: int, end: int) -> bool:
    """True if nothing but whole RIFF chunks, or nothing, stands up to ``end``.

    So a recording without samples is told from one whose length was never written.
    """
    while position + 8 <= end:
        stream.seek(position)
        name, size = struct.unpack("<4sI", stream.read(8))
        if not (name.isascii() and name.decode().isprintable()):
            return False
        position += 8 + size + size % 2
    return position in (end, end + 1)  # a last byte of padding may be missing


def _repair_length(data: bytes, source: str) -> bytes:
    """Write the true length into a WAV header that a program left open.

    The length stands in the four bytes before the samples; a real one stays as it is,
    and is checked.
    """
    found = _find_wav_data(data[: 1 << 16])
    if found is None:
        return data
    start, declared = found
    held = len(data) - start
    if held < declared < _UNKNOWN_LENGTH:
        raise UserError(f"{source}: truncated: {held} of {declared} bytes of samples")
    empty = declared == 0 and _only_chunks(io.BytesIO(data), start, len(data))
    if declared > held or (declared == 0 and not empty):
        size = struct.pack("<I", held)
        riff = struct.pack("<I", len(data) - 8)
        return data[:4] + riff + data[8 : start - 4] + size + data[start:]
    return data


def check_readable(source: str) -> float:
    """Open a recording, read its end, and return its length in seconds."""
    with open_audio(source) as sound:
        _read(sound, max(0, sound.frames - 4096), sound.frames, source)
        return sound.frames / sound.samplerate


def _read(sound: soundfile.SoundFile, start: int, end: int, source: str) -> np.ndarray:
    """Samples ``start`` to ``end`` as (n, channels) float32 in [-1, 1]."""
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
    """One utterance, (n,) float32 in [-1, 1], from ``start`` to ``end`` seconds.

    ``channel`` is a number from 0, ``mean``, or None for sound that must be mono.
    Raises :class:`UserError` for a span outside the recording, for several channels
    without a choice, and for samples that are not finite.
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
    """Number of samples after going from ``rate`` to ``fs`` at a speed: n / speed."""
    exact = Fraction(samples * fs, rate) / Fraction(speed)
    return int(exact + Fraction(1, 2))


def resample(samples: np.ndarray, rate: int, fs: int, speed: str = "1.0") -> np.ndarray:
    """(n,) at ``rate`` to (n * fs / rate / speed,) at ``fs``, pitch following speed.

    Sound played faster is sound recorded at a higher rate: one resampling does both.
    """
    import numpy as np
    import soxr

    if rate == fs and Fraction(speed) == 1:
        return samples
    changed = soxr.resample(samples, rate * float(Fraction(speed)), fs)
    length = output_length(len(samples), rate, fs, speed)
    # soxr may be off by a sample; the length is a promise to utt2num_samples.
    return np.pad(changed[:length], (0, max(0, length - len(changed))))

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
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from espnet_mtla.data.flac import ArchiveEntry, decode_flac
from espnet_mtla.data.wav_header import UNKNOWN_LENGTH, lacks_length, repair_length
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import soundfile

# Segment ends are often rounded: up to this far beyond the recording they are cut.
MAX_OVERSHOOT_SECONDS = 0.5
_MOST_FRAMES = 2**48
# Above this many samples, that the last exists is checked before memory is allocated.
_LONG = 2**26
_ARCHIVE = re.compile(r"(?P<path>.+):(?P<offset>[0-9]{1,18})")


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
def open_audio(
    source: str, run_commands: bool = False
) -> Iterator[soundfile.SoundFile]:
    """Open a ``wav.scp`` value: path, ``archive:offset`` or ``command |``.

    Args:
        source: the value.
        run_commands: run a command, as ``format_audio`` does; False refuses it, so that
            no other program runs what a data folder says.
    Raises:
        UserError: names the source: it is missing, empty, truncated, of unknown format,
            or a command that fails (with its last line of output).
    """
    if is_pipe(source) and not run_commands:
        raise UserError(
            f"{source}: a command, which is run when the folder is formatted: "
            "espnet-mtla format_audio IN OUT"
        )
    with ExitStack() as stack:
        stream = _open_stream(source, stack)
        sound = stack.enter_context(_open_sound(stream, source))
        entry = isinstance(stream, ArchiveEntry)
        unknown = sound.frames > _MOST_FRAMES  # libsndfile's value for FLAC
        if unknown and entry:
            raise UserError(
                f"{source}: FLAC that does not declare its length; in an archive its "
                "end cannot be found: decode it once: flac -d FILE"
            )
        if unknown or entry:
            frames = None if unknown else sound.frames
            decoded = decode_flac(stream, source, frames)
            sound = stack.enter_context(_open_sound(decoded, source))
        if sound.frames == 0:
            raise UserError(f"{source}: no samples")
        yield sound


@contextmanager
def open_bytes(data: bytes, name: str) -> Iterator[soundfile.SoundFile]:
    """Open the contents of an audio file, such as an upload.

    Args:
        data: the whole file.
        name: of the recording, for errors.
    Raises:
        UserError: names the recording: it is empty, truncated or of unknown format.
    """
    if not data:
        raise UserError(f"{name}: empty file")
    with ExitStack() as stack:
        stream = io.BytesIO(repair_length(data, name))
        sound = stack.enter_context(_open_sound(stream, name))
        if sound.frames > _MOST_FRAMES:
            decoded = decode_flac(io.BytesIO(data), name, None)
            sound = stack.enter_context(_open_sound(decoded, name))
        if sound.frames == 0:
            raise UserError(f"{name}: no samples")
        yield sound


def _open_stream(source: str, stack: ExitStack) -> str | BinaryIO:
    """Return what soundfile opens; ``stack`` closes it."""
    if is_pipe(source):
        return io.BytesIO(repair_length(_run_pipe(source), source))
    path, offset = _split_archive(source)
    try:
        check_file(path)
        if offset is not None:
            return stack.enter_context(_open_entry(path, offset, source))
        if lacks_length(path):
            return io.BytesIO(repair_length(path.read_bytes(), source))
    except OSError as error:  # no permission, a name that is too long, a bad disk
        raise UserError(f"{path}: {error.strerror}") from None
    return source


def _open_sound(stream: str | BinaryIO, source: str) -> soundfile.SoundFile:
    import soundfile

    try:
        return soundfile.SoundFile(stream)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise UserError(f"{source}: unreadable audio: {reason}") from None


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


def _open_entry(path: Path, offset: int, source: str) -> BinaryIO:
    """Open one RIFF, FLAC or kaldiio AUDIO entry of an archive; check its length."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        head = stream.read(8)
        size = -1  # to the end of the archive
        start = offset
        if head[:4] == b"fLaC":  # only its decoder knows where it ends
            return ArchiveEntry(path, offset)
        if head[:5] == b"AUDIO" and len(head) > 5:
            width = head[5]
            start = offset + 6 + width
            stream.seek(offset + 6)
            size = int.from_bytes(stream.read(width), "little")
        elif head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:], "little")
            size = declared + 8 if declared < UNKNOWN_LENGTH else -1
        else:
            raise UserError(f"{source}: no audio at this place of the archive")
        stream.seek(start)
        # A damaged entry may declare more bytes than memory holds.
        data = stream.read(min(size, path.stat().st_size))
    if len(data) < size:
        raise UserError(f"{source}: truncated: {len(data)} of {size} bytes")
    return io.BytesIO(repair_length(data, source))


def check_readable(source: str) -> float:
    """Open a recording, read its end, and return its length in seconds."""
    with open_audio(source) as sound:
        _read(sound, max(0, sound.frames - 4096), sound.frames, source)
        return sound.frames / sound.samplerate


def _read(sound: soundfile.SoundFile, start: int, end: int, source: str) -> np.ndarray:
    """Return samples ``start`` to ``end`` as (n, channels) float32 in [-1, 1]."""
    import soundfile

    try:
        if end - start > _LONG:
            _check_last_sample(sound, end, source)
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


def _check_last_sample(sound: soundfile.SoundFile, end: int, source: str) -> None:
    """Refuse a header that declares more samples than there are, before allocating."""
    sound.seek(end - 1)
    if not len(sound.read(1)):
        raise UserError(f"{source}: truncated: fewer than {end} samples")


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

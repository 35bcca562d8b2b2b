"""Convert one shard of a data folder's audio.

A shard is a folder that is written atomically. Its manifest holds the fingerprint of
its inputs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.data import audio
from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.errors import UserError
from espnet_mtla.text_files import read_json

if TYPE_CHECKING:
    import numpy as np
    import soundfile

FORMATS = ("flac", "flac.ark", "wav")
_MANIFEST = "manifest.json"
_LAYOUT = 1  # increase it to make shards of older versions invalid


@dataclass(frozen=True)
class Settings:
    """Format of the output; ``channel``: a number, ``mean`` or None (mono only)."""

    fs: int = 16000
    audio_format: str = "flac"
    channel: str | None = None

    def __post_init__(self) -> None:
        if not 1000 <= self.fs <= 655350:
            raise UserError(f"--fs {self.fs}: must be between 1000 and 655350 Hz")
        if self.audio_format not in FORMATS:
            raise UserError(
                f"--audio_format {self.audio_format}: choose from {FORMATS}"
            )
        if self.channel not in (None, "mean") and not str(self.channel).isdigit():
            raise UserError(f"--channel {self.channel}: a number from 0, or mean")


@dataclass(frozen=True)
class ShardUtterance:
    """The audio of one utterance: ``start`` to ``end`` of ``source``, in seconds."""

    key: str
    source: str
    start: float
    end: float | None
    speed: str


@dataclass(frozen=True)
class Shard:
    """One job: utterances to write into ``folder`` (``OUT/data/partN``)."""

    folder: Path
    utterances: tuple[ShardUtterance, ...]
    settings: Settings


@dataclass
class ShardResult:
    """Results of writing a shard, by utterance key.

    ``samples``: number of samples written. ``path``: place below the shard's folder, as
    in ``wav.scp``. ``bad``: why the utterance could not be read. ``resampled``: the
    input's sampling rate in Hz. ``clipped``: number of samples beyond full scale.
    """

    samples: dict[str, int] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    resampled: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)


def fingerprint(shard: Shard) -> str:
    """Return a hash of a shard's settings and inputs, with sizes and times of files."""
    files: dict[str, list[int]] = {}
    for utterance in shard.utterances:
        path = audio.source_file(utterance.source)
        if path is not None and path.is_file():
            status = path.stat()
            files[str(path)] = [status.st_size, status.st_mtime_ns]
    content = [
        _LAYOUT,
        asdict(shard.settings),
        [asdict(utterance) for utterance in shard.utterances],
        sorted(files.items()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_shard(shard: Shard) -> ShardResult | None:
    """Return the result of an earlier run, or None if the shard must be written."""
    manifest = shard.folder / _MANIFEST
    if not manifest.is_file():
        return None
    content = read_json(manifest, "delete it and run again")
    if content["fingerprint"] != fingerprint(shard):
        return None
    result = ShardResult(**content["made"])
    ark = shard.settings.audio_format == "flac.ark"
    places = result.path.values()
    files = {place.rsplit(":", 1)[0] for place in places} if ark else set(places)
    whole = all((shard.folder / name).is_file() for name in files)
    return result if whole and not result.bad else None


def make_shard(shard: Shard) -> ShardResult:
    """Read, convert and write one shard; unreadable utterances go to ``bad``.

    Raises:
        OSError: the output cannot be written.
    """
    result = ShardResult()
    by_source: dict[str, list[ShardUtterance]] = defaultdict(list)
    for utterance in shard.utterances:
        by_source[utterance.source].append(utterance)
    before = fingerprint(shard)
    with atomic_folder(shard.folder) as aside:
        for source, utterances in by_source.items():
            _make_recording(source, utterances, shard, aside, result)
        content = {"fingerprint": before, "made": asdict(result)}
        with _named_errors(shard.folder):
            (aside / _MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return result


def _make_recording(
    source: str,
    utterances: list[ShardUtterance],
    shard: Shard,
    aside: Path,
    result: ShardResult,
) -> None:
    """Write the utterances of one recording into ``aside``; add to ``result``."""
    left = list(utterances)
    try:
        with audio.open_audio(source, run_commands=True) as sound:
            while left:
                _make_utterance(sound, left[0], shard, aside, result)
                left.pop(0)
    except UserError as error:
        # The recording cannot be read: this applies to its other utterances, too.
        for utterance in left:
            result.bad[utterance.key] = str(error)


def _make_utterance(
    sound: soundfile.SoundFile,
    utterance: ShardUtterance,
    shard: Shard,
    aside: Path,
    result: ShardResult,
) -> None:
    """Write one utterance into ``aside``; add it to ``result``."""
    import numpy as np

    settings, key = shard.settings, utterance.key
    try:
        samples = audio.read_span(
            sound, utterance.source, utterance.start, utterance.end, settings.channel
        )
        samples = audio.resample(
            samples, sound.samplerate, settings.fs, utterance.speed
        )
        if not len(samples):
            raise UserError(f"{utterance.source}: no sample is left after resampling")
        with _named_errors(shard.folder):
            result.path[key] = _write_sound(aside, key, to_pcm16(samples), settings)
    except UserError as error:
        result.bad[key] = str(error)
        return
    clipped = int(np.count_nonzero(np.abs(samples) > 1.0))
    result.samples[key] = len(samples)
    if clipped:
        result.clipped[key] = clipped
    if sound.samplerate != settings.fs:
        result.resampled[key] = sound.samplerate


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert (n,) floats in [-1, 1] to int16; 16-bit audio is restored exactly."""
    import numpy as np

    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _write_sound(folder: Path, key: str, pcm: np.ndarray, settings: Settings) -> str:
    """Write one utterance; return its place below ``folder``, as in ``wav.scp``."""
    import kaldiio
    import soundfile

    if settings.audio_format == "flac.ark":
        with open(folder / "audio.ark", "ab") as stream:
            place = stream.tell() + len(f"{key} ".encode())
            kaldiio.save_ark(
                stream,
                {key: (settings.fs, pcm)},
                write_function="soundfile",
                write_kwargs={"format": "FLAC", "subtype": "PCM_16"},
            )
        return f"audio.ark:{place}"
    # Encode in memory, because libsndfile's errors do not tell that a disk is full.
    whole = io.BytesIO()
    soundfile.write(
        whole, pcm, settings.fs, format=settings.audio_format.upper(), subtype="PCM_16"
    )
    name = f"{file_stem(key)}.{settings.audio_format}"
    (folder / name).write_bytes(whole.getvalue())
    return name


def file_stem(key: str) -> str:
    """Return a file name for a key.

    >>> file_stem("a/b%")
    'a%2Fb%25'
    """
    stem = key.replace("%", "%25").replace("/", "%2F")
    if len(stem.encode()) > 240:
        raise UserError(f"key {key!r} is too long for a file name; use flac.ark")
    return stem


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Add the output's path to the errors of a write, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, with a message alone
            raise OSError(f"{path}: {error}") from None
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None

"""One part of a folder's sound: read, changed, written as a whole.

A part is a folder that appears complete or not at all, with a manifest that says from
what it was made.
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

if TYPE_CHECKING:
    import numpy as np
    import soundfile

FORMATS = ("flac", "flac.ark", "wav")
_MANIFEST = "manifest.json"
_LAYOUT = 1  # raise it when parts that an older version wrote must be written again


@dataclass(frozen=True)
class Settings:
    """How sound is written: ``channel`` is a number, ``mean`` or None (mono only)."""

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
class Utterance:
    """What one utterance is made from; times in seconds within ``source``."""

    key: str
    source: str
    start: float
    end: float | None
    speed: str


@dataclass(frozen=True)
class Part:
    """One job: the utterances of ``folder`` (a path under ``OUT/data``)."""

    folder: Path
    utterances: tuple[Utterance, ...]
    settings: Settings


@dataclass
class Made:
    """What came of a part, by key.

    ``samples`` (their number) and ``path`` (as in ``wav.scp``, below the part's folder)
    of what was written; ``bad`` with the reason; ``resampled`` with the rate that was
    read; ``clipped`` with the number of samples beyond full scale.
    """

    samples: dict[str, int] = field(default_factory=dict)
    path: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    resampled: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)


def fingerprint(part: Part) -> str:
    """A hash of everything a part is made from, the files' sizes and times included."""
    files: dict[str, list[int]] = {}
    for utterance in part.utterances:
        path = audio.source_file(utterance.source)
        if path is not None and path.is_file():
            status = path.stat()
            files[str(path)] = [status.st_size, status.st_mtime_ns]
    content = [
        _LAYOUT,
        asdict(part.settings),
        [asdict(utterance) for utterance in part.utterances],
        sorted(files.items()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_part(part: Part) -> Made | None:
    """What an earlier run made of this part, None if it must be made (again)."""
    manifest = part.folder / _MANIFEST
    if not manifest.is_file():
        return None
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if content["fingerprint"] != fingerprint(part):
        return None
    made = Made(**content["made"])
    ark = part.settings.audio_format == "flac.ark"
    places = made.path.values()
    files = {place.rsplit(":", 1)[0] for place in places} if ark else set(places)
    whole = all((part.folder / name).is_file() for name in files)
    return made if whole and not made.bad else None


def make_part(part: Part) -> Made:
    """Read, change and write one part; a bad utterance is noted and left out.

    What is raised is an error of the disk that is written to.
    """
    made = Made()
    by_source: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in part.utterances:
        by_source[utterance.source].append(utterance)
    before = fingerprint(part)
    with atomic_folder(part.folder) as aside:
        for source, utterances in by_source.items():
            _make_recording(source, utterances, part, aside, made)
        content = {"fingerprint": before, "made": asdict(made)}
        with _named_errors(part.folder):
            (aside / _MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return made


def _make_recording(
    source: str, utterances: list[Utterance], part: Part, aside: Path, made: Made
) -> None:
    left = list(utterances)
    try:
        with audio.open_audio(source) as sound:
            while left:
                _make_utterance(sound, left[0], part, aside, made)
                left.pop(0)
    except UserError as error:
        # The recording itself: every utterance that was still to come is lost.
        for utterance in left:
            made.bad[utterance.key] = str(error)


def _make_utterance(
    sound: soundfile.SoundFile,
    utterance: Utterance,
    part: Part,
    aside: Path,
    made: Made,
) -> None:
    import numpy as np

    settings, key = part.settings, utterance.key
    try:
        samples = audio.read_span(
            sound, utterance.source, utterance.start, utterance.end, settings.channel
        )
        samples = audio.resample(
            samples, sound.samplerate, settings.fs, utterance.speed
        )
        if not len(samples):
            raise UserError(f"{utterance.source}: no sample is left after resampling")
        with _named_errors(part.folder):
            made.path[key] = _write_sound(aside, key, to_pcm16(samples), settings)
    except UserError as error:
        made.bad[key] = str(error)
        return
    clipped = int(np.count_nonzero(np.abs(samples) > 1.0))
    made.samples[key] = len(samples)
    if clipped:
        made.clipped[key] = clipped
    if sound.samplerate != settings.fs:
        made.resampled[key] = sound.samplerate


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """(n,) floats in [-1, 1] to int16; sound read from 16 bit comes back exactly."""
    import numpy as np

    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _write_sound(folder: Path, key: str, pcm: np.ndarray, settings: Settings) -> str:
    """Write one utterance; its place below the part's folder, as in ``wav.scp``."""
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
    # In memory first: libsndfile's own errors do not say that a disk is full.
    whole = io.BytesIO()
    soundfile.write(
        whole, pcm, settings.fs, format=settings.audio_format.upper(), subtype="PCM_16"
    )
    name = f"{file_stem(key)}.{settings.audio_format}"
    (folder / name).write_bytes(whole.getvalue())
    return name


def file_stem(key: str) -> str:
    """A file name for a key: ``/`` and ``%`` are written as %2F and %25."""
    stem = key.replace("%", "%25").replace("/", "%2F")
    if len(stem.encode()) > 240:
        raise UserError(f"key {key!r} is too long for a file name; use flac.ark")
    return stem


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Give the errors of a write, such as a full disk, the name of what was written."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, with words alone
            raise OSError(f"{path}: {error}") from None
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None

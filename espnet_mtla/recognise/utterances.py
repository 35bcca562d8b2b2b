"""The utterances of a data folder: how long they are, in which batches, their sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    from espnet_mtla.data.folder import DataFolder

FRAMES_PER_SECOND = 100  # unit of --batch_frames, whatever the front-end's hop


@dataclass(frozen=True)
class Utterance:
    """``seconds`` says where to put it in a batch; the sound itself is read later."""

    key: str
    source: str
    start: float
    end: float | None
    seconds: float

    @property
    def frames(self) -> int:
        return max(1, round(self.seconds * FRAMES_PER_SECOND))


def list_utterances(data: Path, fs: int) -> list[Utterance]:
    """Every utterance of a data folder, sorted by key.

    Raises:
        UserError: The folder is missing, empty or inconsistent, a recording is missing
            or has another sampling rate than ``fs``.
    """
    from espnet_mtla.data.folder import DataFolder

    folder = DataFolder.read(data)
    samples = folder.tables.get("utt2num_samples", {})
    return [_describe(folder, key, samples.get(key), fs) for key in folder.utterances]


def _describe(folder: DataFolder, key: str, samples: str | None, fs: int) -> Utterance:
    span = folder.span(key)
    source = folder.wav[span.recording]
    if samples is not None and samples.isdigit():
        seconds = int(samples) / fs
    elif span.end is not None:
        seconds = span.end - span.start
    else:
        seconds = _duration(key, source, fs) - span.start
    return Utterance(key, source, span.start, span.end, seconds)


@contextmanager
def _opened(key: str, source: str, fs: int) -> Iterator[soundfile.SoundFile]:
    """The recording, at the right rate; every complaint names the utterance."""
    from espnet_mtla.data.audio import open_audio

    try:
        with open_audio(source) as sound:
            if sound.samplerate != fs:
                raise UserError(
                    f"the sound has {sound.samplerate} Hz, the model takes {fs} Hz; "
                    f"resample: python -m espnet_mtla.bin.format_audio IN OUT --fs {fs}"
                )
            yield sound
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _duration(key: str, source: str, fs: int) -> float:
    with _opened(key, source, fs) as sound:
        return sound.frames / fs


def read_sound(utterance: Utterance, fs: int) -> np.ndarray:
    """Samples of one channel, ``(n,)`` float32.

    Raises:
        UserError: Names the utterance: unreadable, wrong rate, several channels, NaN.
    """
    from espnet_mtla.data.audio import read_span

    with _opened(utterance.key, utterance.source, fs) as sound:
        return read_span(sound, utterance.source, utterance.start, utterance.end)


def make_batches(
    utterances: Sequence[Utterance], batch_frames: int
) -> list[list[Utterance]]:
    """Batches of utterances of like length, shortest first.

    The longest one times the number of utterances is at most ``batch_frames``; an
    utterance beyond that is a batch by itself.
    """
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda u: (u.frames, u.key)):
        if batches and (len(batches[-1]) + 1) * utterance.frames <= batch_frames:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches

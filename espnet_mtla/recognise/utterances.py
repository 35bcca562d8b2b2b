"""Utterances of a data folder: their lengths, and their samples or features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.settings.names import TASKS

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    from espnet_mtla.data.folder import DataFolder
    from espnet_mtla.recognise.load import TrainedModel

FRAMES_PER_SECOND = 100
"""Unit of the option ``batch_frames``: 10 ms, whatever the hop of the front-end."""


def count_frames(seconds: float) -> int:
    """Return a length in frames of 10 ms, at least 1.

    >>> count_frames(1.5)
    150
    """
    return max(1, round(seconds * FRAMES_PER_SECOND))


@dataclass(frozen=True)
class Utterance:
    """Where the sound of an utterance is, and how long it is. It is not read yet.

    Attributes:
        source: file or pipe of the recording, or a place in an archive of features.
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording; None: its end.
        features: the source holds features, not sound.
        task: of a model of several tasks, from the table ``utt2task``.
    """

    key: str
    source: str
    start: float
    end: float | None
    seconds: float
    features: bool = False
    task: str | None = None

    @property
    def frames(self) -> int:
        return count_frames(self.seconds)


@dataclass(frozen=True)
class Sound:
    """The input of one utterance, in memory.

    Attributes:
        samples: ``(n,)`` float32; features ``(frames, width)``; of a model of text,
            token ids ``(n,)``.
        seconds: length of the sound that features were made from; None: the number of
            ``samples`` tells it.
        task: of a model of several tasks.
    """

    key: str
    samples: np.ndarray
    seconds: float | None = None
    task: str | None = None


def list_utterances(
    data: Path, fs: int, frames_per_second: float = FRAMES_PER_SECOND
) -> list[Utterance]:
    """Return every utterance of a data folder, sorted by key.

    Args:
        data: the folder.
        fs: sampling rate of the model in Hz, or frames a second if it takes features.
        frames_per_second: rate of features, used if no table says how long they are.

    Raises:
        UserError: the folder is missing, empty or inconsistent, or a recording is
            missing or has another sampling rate than ``fs``.
    """
    from espnet_mtla.data.folder import DataFolder

    folder = DataFolder.read(data)
    tasks = folder.tables.get(TASKS, {})
    return [
        replace(utterance, task=tasks.get(utterance.key))
        for utterance in _list_untasked(folder, fs, frames_per_second)
    ]


def _list_untasked(
    folder: DataFolder, fs: int, frames_per_second: float
) -> list[Utterance]:
    """Return every utterance, without its task."""
    from espnet_mtla.data.folder import FEATURES

    if folder.source == FEATURES:
        rates = {"utt2dur": 1.0, "utt2num_frames": frames_per_second}
        if fs != frames_per_second:  # otherwise the rate of the samples is unknown
            rates = {"utt2dur": 1.0, "utt2num_samples": fs, **rates}
        return [_features_entry(folder, key, rates) for key in folder.utterances]
    samples = folder.tables.get("utt2num_samples", {})
    return [
        _sound_entry(folder, key, samples.get(key), fs) for key in folder.utterances
    ]


def _sound_entry(
    folder: DataFolder, key: str, samples: str | None, fs: int
) -> Utterance:
    span = folder.span(key)
    source = folder.wav[span.recording]
    if samples is not None and samples.isdigit():
        seconds = int(samples) / fs
    elif span.end is not None:
        seconds = span.end - span.start
    else:
        seconds = _duration(key, source, fs) - span.start
    return Utterance(key, source, span.start, span.end, seconds)


def check_input(data: Path, trained: TrainedModel) -> None:
    """Require the input that the model takes: sound, or features of its front-end.

    Raises:
        UserError: the folder holds something else.
    """
    from espnet_mtla.data.folder import FEATURES, source_table
    from espnet_mtla.frontend.record import check_made_by

    features = source_table(data) == FEATURES
    if trained.frontend is None and not features:
        raise UserError(
            f"{data}: holds sound, and the model takes features (frontend none); "
            "espnet-mtla dump_features makes them"
        )
    if trained.frontend is not None and features:
        check_made_by(data, trained.frontend, trained.frontend_conf)


def _features_entry(
    folder: DataFolder, key: str, rates: Mapping[str, float]
) -> Utterance:
    """Return an utterance of features, its length from the first table there is.

    Args:
        folder: the data folder.
        key: the utterance.
        rates: tables of lengths, the most exact first, and their units a second.
    """
    tables, place = folder.tables, folder.wav[key]
    for name, per_second in rates.items():
        if name in tables:
            try:
                seconds = float(tables[name][key]) / per_second
                if not 0 <= seconds < math.inf:
                    raise ValueError
            except ValueError:
                raise UserError(
                    f"{folder.path}/{name}: {key}: {tables[name][key]!r} is no length"
                ) from None
            break
    else:
        seconds = len(_read_features(key, place)) / rates["utt2num_frames"]
    return Utterance(key, place, 0.0, None, seconds, features=True)


def _read_features(key: str, place: str) -> np.ndarray:
    from espnet_mtla.data.features import read_features

    try:
        return read_features(place).astype("float32")
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


@contextmanager
def _opened(key: str, source: str, fs: int) -> Iterator[soundfile.SoundFile]:
    """Open a recording and require its sampling rate; errors name the utterance."""
    from espnet_mtla.data.audio import open_audio

    try:
        with open_audio(source) as sound:
            if sound.samplerate != fs:
                raise UserError(
                    f"the sound has {sound.samplerate} Hz, the model takes {fs} Hz; "
                    f"resample: espnet-mtla format_audio IN OUT --fs {fs}"
                )
            yield sound
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _duration(key: str, source: str, fs: int) -> float:
    with _opened(key, source, fs) as sound:
        return sound.frames / fs


def read_sound(utterance: Utterance, fs: int) -> np.ndarray:
    """Read samples of one channel, ``(n,)``, or features ``(frames, width)``; float32.

    Raises:
        UserError: the input is unreadable, has another rate or several channels, or
            contains NaN.
    """
    from espnet_mtla.data.audio import read_span

    if utterance.features:
        return _read_features(utterance.key, utterance.source)
    with _opened(utterance.key, utterance.source, fs) as sound:
        return read_span(sound, utterance.source, utterance.start, utterance.end)


def load_sound(utterance: Utterance, fs: int) -> Sound:
    """Read an utterance for a recogniser; see :func:`read_sound`."""
    seconds = utterance.seconds if utterance.features else None
    return Sound(utterance.key, read_sound(utterance, fs), seconds, utterance.task)

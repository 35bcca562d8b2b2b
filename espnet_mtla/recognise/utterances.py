"""The utterances of a data folder: how long they are, in which batches, their sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    from espnet_mtla.data.folder import DataFolder
    from espnet_mtla.recognise.load import TrainedModel

FRAMES_PER_SECOND = 100  # unit of --batch_frames, whatever the front-end's hop


@dataclass(frozen=True)
class Utterance:
    """``seconds`` says where to put it in a batch; the sound itself is read later.

    ``features``: the source is a place in an archive of features.
    """

    key: str
    source: str
    start: float
    end: float | None
    seconds: float
    features: bool = False

    @property
    def frames(self) -> int:
        return max(1, round(self.seconds * FRAMES_PER_SECOND))


@dataclass(frozen=True)
class Sound:
    """Samples of one utterance, ``(n,)`` float32, or features ``(frames, width)``.

    ``seconds`` is how long the sound was that features were made from.
    """

    key: str
    samples: np.ndarray
    seconds: float | None = None


def list_utterances(
    data: Path, fs: int, frames_per_second: float = FRAMES_PER_SECOND
) -> list[Utterance]:
    """Every utterance of a data folder, sorted by key.

    Args:
        data: the folder.
        fs: what the model takes, in Hz; of a model without front-end, frames a second.
        frames_per_second: of features, where nothing else says how long they are.

    Raises:
        UserError: The folder is missing, empty or inconsistent, a recording is missing
            or has another sampling rate than ``fs``.
    """
    from espnet_mtla.data.folder import FEATURES, DataFolder

    folder = DataFolder.read(data)
    if folder.source == FEATURES:
        rates = {"utt2dur": 1.0, "utt2num_frames": frames_per_second}
        if fs != frames_per_second:  # else nobody knows the rate of the samples
            rates = {"utt2dur": 1.0, "utt2num_samples": fs, **rates}
        return [_describe_features(folder, key, rates) for key in folder.utterances]
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


def check_input(data: Path, trained: TrainedModel) -> None:
    """Require a folder that this model can read: sound, or features made as its own.

    Raises:
        UserError: names the folder and what the model takes.
    """
    from espnet_mtla.data.folder import FEATURES, source_table
    from espnet_mtla.frontend.record import check_made_by

    features = source_table(data) == FEATURES
    if trained.frontend is None and not features:
        raise UserError(
            f"{data}: holds sound, and the model takes features (frontend none); make "
            "them with dump_features, as for its training"
        )
    if trained.frontend is not None and features:
        check_made_by(data, trained.frontend, trained.frontend_conf)


def _describe_features(
    folder: DataFolder, key: str, rates: Mapping[str, float]
) -> Utterance:
    """``rates``: what tables of lengths count in a second, the best table first."""
    tables, place = folder.tables, folder.wav[key]
    for name, per_second in rates.items():
        if name in tables:
            try:
                seconds = float(tables[name][key]) / per_second
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
    """Samples of one channel, ``(n,)``, or features ``(frames, width)``; float32.

    Raises:
        UserError: Names the utterance: unreadable, wrong rate, several channels, NaN.
    """
    from espnet_mtla.data.audio import read_span

    if utterance.features:
        return _read_features(utterance.key, utterance.source)
    with _opened(utterance.key, utterance.source, fs) as sound:
        return read_span(sound, utterance.source, utterance.start, utterance.end)


def load_sound(utterance: Utterance, fs: int) -> Sound:
    """:func:`read_sound` with key and length, as a recogniser takes it."""
    seconds = utterance.seconds if utterance.features else None
    return Sound(utterance.key, read_sound(utterance, fs), seconds)


class Batchable(Protocol):
    """What can be put into a batch: it has a name and a length."""

    @property
    def key(self) -> str: ...

    @property
    def frames(self) -> int: ...


Item = TypeVar("Item", bound=Batchable)


def make_batches(utterances: Sequence[Item], batch_frames: int) -> list[list[Item]]:
    """Batches of utterances of like length, shortest first.

    The longest one times the number of utterances is at most ``batch_frames``; an
    utterance beyond that is a batch by itself.
    """
    batches: list[list[Item]] = []
    for utterance in sorted(utterances, key=lambda u: (u.frames, u.key)):
        if batches and (len(batches[-1]) + 1) * utterance.frames <= batch_frames:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches

"""Sounds of any form, converted to one channel at the sampling rate of the model.

A file is opened at first to learn its length, and read when its batch is decoded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import count_frames
from espnet_mtla.speech2text.samples import check_rate, mix, to_samples

if TYPE_CHECKING:
    import numpy as np
    import soundfile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One recording: name, length, and a function that reads its samples."""

    key: str
    seconds: float
    read: Callable[[], np.ndarray]

    @property
    def frames(self) -> int:
        """Length as the option ``batch_frames`` counts it."""
        return count_frames(self.seconds)


@dataclass
class SoundReader:
    """Convert sound to one channel and ``fs`` Hz; logs each conversion once."""

    fs: int
    _logged: dict[tuple[int, int], object] = field(default_factory=dict)

    def clip(self, sound: object, rate: object = None, key: str = "sound") -> Clip:
        """Return a clip of a path, an array, or ``{"array": .., "sampling_rate": ..}``.

        Args:
            sound: an array is ``(n,)``, ``(n, channels)`` or ``(channels, n)``, of
                floats in [-1, 1] or of int8, uint8, int16 or int32, each full at its
                own range (:mod:`.samples`); numpy's or torch's.
            rate: sampling rate of an array, a whole number of Hz of any numeric type.
            key: name of an array in messages and results; that of a file is its path.

        Raises:
            UserError: not a sound, no rate, or values that cannot be samples.
        """
        if isinstance(sound, str | os.PathLike):
            return self._of_file(os.fspath(sound))
        if isinstance(sound, Mapping):
            missing = {"array", "sampling_rate"} - set(sound)
            if missing:
                raise UserError(f"{key}: no {min(missing)!r} in the dictionary")
            return self._of_array(sound["array"], sound["sampling_rate"], key)
        return self._of_array(sound, rate, key)

    def _of_file(self, path: str) -> Clip:
        from espnet_mtla.data.audio import check_file, is_pipe, open_audio

        try:
            check_file(Path(path))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        if is_pipe(path):  # data folders run such a name as a command
            raise UserError(f"{path}: a name that ends in | is not read; rename it")
        with open_audio(path) as sound:
            seconds = sound.frames / sound.samplerate
        return Clip(path, seconds, lambda: self._read(path))

    def of_bytes(self, data: bytes, name: str) -> Clip:
        """Return a clip of an audio file's contents.

        Args:
            data: the whole file.
            name: of the recording, in messages and results.

        Raises:
            UserError: the contents are no sound that can be read.
        """
        from espnet_mtla.data.audio import open_bytes

        def read() -> np.ndarray:
            with open_bytes(data, name) as sound:
                return self._mono(sound, name)

        with open_bytes(data, name) as sound:
            return Clip(name, sound.frames / sound.samplerate, read)

    def _read(self, path: str) -> np.ndarray:
        from espnet_mtla.data.audio import open_audio

        with open_audio(path) as sound:
            return self._mono(sound, path)

    def _mono(self, sound: soundfile.SoundFile, name: str) -> np.ndarray:
        from espnet_mtla.data.audio import read_span

        samples = read_span(sound, name, channel="mean")
        return self._to_rate(samples, sound.samplerate, sound.channels, name)

    def _of_array(self, sound: object, rate: object, key: str) -> Clip:
        samples, channels = mix(to_samples(sound, key))
        hertz = check_rate(rate, key)
        changed = self._to_rate(samples, hertz, channels, key)
        return Clip(key, len(samples) / hertz, lambda: changed)

    def _to_rate(
        self, samples: np.ndarray, rate: int, channels: int, name: str
    ) -> np.ndarray:
        from espnet_mtla.data.audio import resample

        changed, mark = rate != self.fs or channels > 1, object()
        # setdefault is atomic: only one of several threads logs the message.
        if changed and self._logged.setdefault((rate, channels), mark) is mark:
            mixed = f", {channels} channels mixed to one" if channels > 1 else ""
            logger.warning(
                "%s: %d Hz brought to %d Hz%s (logged once for all such sounds)",
                *(name, rate, self.fs, mixed),
            )
        resampled = resample(samples, rate, self.fs)
        if not len(resampled):
            raise UserError(
                f"{name}: {len(samples)} samples at {rate} Hz are none at {self.fs} Hz"
            )
        return resampled

"""Whatever holds sound, as one channel at the model's rate.

A file is only opened here to see how long it is; it is read when its batch is due.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.speech2text.samples import check_rate, mix, to_samples

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One recording: its name, its length, and how to get at its samples."""

    key: str
    seconds: float
    read: Callable[[], np.ndarray]

    @property
    def frames(self) -> int:
        """Its length as the option ``batch_frames`` counts."""
        return max(1, round(self.seconds * FRAMES_PER_SECOND))


@dataclass
class SoundReader:
    """Brings sound to one channel and ``fs`` Hz, and says once what it changes."""

    fs: int
    _said: dict[tuple[int, int], object] = field(default_factory=dict)

    def clip(self, sound: object, rate: object = None, key: str = "sound") -> Clip:
        """A path, an array with its rate, or ``{"array": ..., "sampling_rate": ...}``.

        Args:
            sound: an array is ``(n,)``, ``(n, channels)`` or ``(channels, n)``, of
                floats in [-1, 1] or of int8, uint8, int16 or int32, each full at its
                own range (:mod:`.samples`); numpy's or torch's.
            rate: of an array, a whole number of Hz of any numeric type.
            key: its name in messages and results; a file's is its path.

        Raises:
            UserError: no sound, no rate, or values that are none of samples.
        """
        if isinstance(sound, str | os.PathLike):
            return self._of_file(os.fspath(sound))
        if isinstance(sound, Mapping):
            missing = {"array", "sampling_rate"} - set(sound)
            if missing:
                raise UserError(f"{key}: no {min(missing)!r} in what was given")
            return self._of_array(sound["array"], sound["sampling_rate"], key)
        return self._of_array(sound, rate, key)

    def _of_file(self, path: str) -> Clip:
        from espnet_mtla.data.audio import check_file, is_pipe, open_audio

        try:
            check_file(Path(path))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        if is_pipe(path):  # elsewhere that means a command, which is not to be run
            raise UserError(f"{path}: a name that ends in | is not read; rename it")
        with open_audio(path) as sound:
            seconds = sound.frames / sound.samplerate
        return Clip(path, seconds, lambda: self._read(path))

    def _read(self, path: str) -> np.ndarray:
        from espnet_mtla.data.audio import open_audio, read_span

        with open_audio(path) as sound:
            samples = read_span(sound, path, channel="mean")
            return self._to_rate(samples, sound.samplerate, sound.channels, path)

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
        # One step, so that of several threads one alone says it.
        if changed and self._said.setdefault((rate, channels), mark) is mark:
            mixed = f", {channels} channels mixed to one" if channels > 1 else ""
            logger.warning(
                "%s: %d Hz brought to %d Hz%s (said once for all like it)",
                *(name, rate, self.fs, mixed),
            )
        return resample(samples, rate, self.fs)

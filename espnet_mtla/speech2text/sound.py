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

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

FRAMES_PER_SECOND = 100  # unit of the option batch_frames
LOUDEST = 8.0  # floating-point samples beyond that were never scaled to [-1, 1]


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

    def clip(self, sound: object, rate: int | None = None, key: str = "") -> Clip:
        """A path, an array with its rate, or ``{"array": ..., "sampling_rate": ...}``.

        Args:
            sound: an array is ``(n,)``, ``(n, channels)`` or ``(channels, n)``, of
                floats in [-1, 1] or of integers; numpy's or torch's.
            rate: of an array, in Hz.
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
        from espnet_mtla.data.audio import is_pipe, open_audio

        if Path(path).is_dir():
            raise UserError(f"{path}: a folder; name the files in it")
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
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

    def _of_array(self, sound: object, rate: int | None, key: str) -> Clip:
        import numpy as np

        array = np.asarray(sound.detach().cpu() if hasattr(sound, "detach") else sound)
        if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "fiu":
            raise UserError(
                f"{key}: {type(sound).__name__} of shape {array.shape}: a path, or "
                "samples (n,) or (n, channels) as numbers are needed"
            )
        if rate is None:
            raise UserError(
                f"{key}: an array needs its sampling rate in Hz: rate=16000"
            )
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
            raise UserError(f"{key}: rate {rate!r}: a number of Hz is needed")
        samples = _scaled(array, key)
        channels = 1
        if samples.ndim == 2:
            # More channels than samples there never are.
            axis = int(samples.shape[0] >= samples.shape[1])
            channels = samples.shape[axis]
            samples = samples.mean(axis=axis)
        rate = round(rate)
        changed = self._to_rate(samples, rate, channels, key)
        return Clip(key, len(samples) / rate, lambda: changed)

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


def _scaled(array: np.ndarray, key: str) -> np.ndarray:
    """float32 in [-1, 1], from integers by their type's range."""
    import numpy as np

    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        middle = (limits.max + limits.min + 1) / 2  # 0 but for unsigned types
        return ((array - middle) / (limits.max - middle + 1)).astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{key}: some samples are NaN or infinite")
    most = float(np.abs(array).max())
    if most > LOUDEST:
        raise UserError(
            f"{key}: samples reach {most:g}, floats are to be in [-1, 1]; divide them "
            "by 32768 if they come from 16-bit integers"
        )
    return array.astype(np.float32)

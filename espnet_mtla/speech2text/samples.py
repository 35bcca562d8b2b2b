"""Arrays of samples as float32 in [-1, 1], and sampling rates as whole numbers.

The type of an array defines its full scale: floats are in [-1, 1]; int16 has 2^15, int8
2^7 and int32 2^31, as soundfile, scipy and torchaudio write them; uint8 is WAV's
unsigned form around 128. Other types have no usual meaning and are refused. So are
values that contradict their type: 16-bit values in int32 would be silence.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import plain, require

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

FULL_SCALE = {("i", 1): 2**7, ("u", 1): 2**7, ("i", 2): 2**15, ("i", 4): 2**31}
"""Full scale of integers by NumPy's kind and bytes."""
LOUDEST = 8.0
"""Larger floats were not scaled to [-1, 1]. Mixing and resampling can exceed 1."""
WAY_OUT = (
    "give int16 by .astype('int16') if the values are 16-bit, or floats in [-1, 1]"
)


def check_rate(rate: object, key: str) -> int:
    """Check a sampling rate in Hz and return it as ``int``.

    ``16000.0`` and whole numbers of NumPy or torch are accepted.

    Args:
        key: name of the sound, for messages.
    Raises:
        UserError: the rate is None, not a whole number, or not positive; names ``key``.
    """
    if rate is None:
        raise UserError(f"{key}: an array needs its sampling rate in Hz: rate=16000")
    value: Any = plain(rate)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and value > 0 and value % 1 == 0
    require(
        bool(whole), f"{key}: rate", rate, "a whole number of Hz, such as 16000, is"
    )
    return int(value)


def to_samples(sound: object, key: str) -> np.ndarray:
    """Return a copy of the samples as float32 in [-1, 1], in the same shape.

    Args:
        sound: ``(n,)``, ``(n, channels)`` or ``(channels, n)``: a NumPy array, a torch
            tensor on any device, or anything that NumPy converts to an array.
        key: name of the sound in messages.

    Raises:
        UserError: another shape or type, or values that do not fit the type.
    """
    array = _as_array(sound, key)
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{key}: {type(sound).__name__} of shape {array.shape} and type "
            f"{array.dtype}: a path, or samples (n,) or (n, channels) as numbers are "
            "needed"
        )
    return (
        _of_floats(array, key) if array.dtype.kind == "f" else _of_integers(array, key)
    )


def mix(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the mean of all channels, ``(n,)``, and the number of channels."""
    if samples.ndim == 1:
        return samples, 1
    # The shorter axis holds the channels.
    axis = int(samples.shape[0] >= samples.shape[1])
    return samples.mean(axis=axis), samples.shape[axis]


def _as_array(sound: Any, key: str) -> np.ndarray:
    import numpy as np

    try:
        if hasattr(sound, "detach"):
            sound = sound.detach().cpu()
            if sound.is_floating_point():  # numpy has no bfloat16
                sound = sound.float()
            sound = sound.resolve_neg().numpy()
        return np.asarray(sound)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: {type(sound).__name__}: not an array of samples: {reason}"
        ) from None


def _of_integers(array: np.ndarray, key: str) -> np.ndarray:
    import numpy as np

    kind, width = array.dtype.kind, array.dtype.itemsize
    full = FULL_SCALE.get((kind, width))
    if full is None:
        raise UserError(
            f"{key}: samples of type {array.dtype}: nothing says which value is full "
            f"scale; {WAY_OUT}"
        )
    values = array.astype(np.float64) - (full if kind == "u" else 0)
    peak = float(np.abs(values).max())
    if width == 4 and 0 < peak <= 2**15:
        raise UserError(
            f"{key}: int32 samples reach {peak:.0f}, and 2^31 is full scale: as they "
            f"are, this is silence; {WAY_OUT}"
        )
    if width == 4 and 0 < peak <= 2**23:
        logger.warning(
            "%s: int32 samples reach %d, and 2^31 is full scale: very quiet; values of "
            "24 bits have to be shifted by 8",
            *(key, peak),
        )
    return (values / full).astype(np.float32)


def _of_floats(array: np.ndarray, key: str) -> np.ndarray:
    import numpy as np

    if not np.isfinite(array).all():
        raise UserError(f"{key}: some samples are NaN or infinite")
    peak = float(np.abs(array).max())
    if peak > LOUDEST or (peak > 1 and (array == np.round(array)).all()):
        raise UserError(
            f"{key}: samples reach {peak:g}, floats are to be in [-1, 1]; divide them "
            "by 32768 if they come from 16-bit integers"
        )
    return array.astype(np.float32)

"""Cutting a long recording where it is quietest."""

from __future__ import annotations

import numpy as np

WINDOW_SECONDS = 0.2
"""How long a pause is worth cutting at: the mean power of so much sound is compared."""


def cut_points(samples: np.ndarray, fs: int, longest: float) -> list[int]:
    """Where to cut so that no piece is longer than ``longest`` seconds.

    Each cut is the quietest place in the second half of what may come before it, so
    pieces are between half of ``longest`` and all of it, but for the last.

    Returns:
        First samples of the pieces, and at the end the number of samples.
    """
    most = max(2, int(longest * fs))
    window = min(int(WINDOW_SECONDS * fs), most // 2)
    power = np.square(samples, dtype=np.float64)
    sums = np.concatenate(([0.0], power.cumsum()))
    starts = [0]
    while len(samples) - starts[-1] > most:
        low, high = starts[-1] + most // 2, starts[-1] + most
        left = np.arange(low, max(low + 1, high - window))
        right = np.minimum(left + window, len(samples))
        quietest = int(np.argmin(sums[right] - sums[left]))
        starts.append(int(left[quietest] + right[quietest]) // 2)
    return [*starts, len(samples)]

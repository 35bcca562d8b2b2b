"""Cut a long recording at its quietest places."""

from __future__ import annotations

import numpy as np

WINDOW_SECONDS = 0.2
"""Length of a pause: the power is averaged over windows of this length."""


def cut_points(samples: np.ndarray, fs: int, longest: float) -> list[int]:
    """Return where to cut so that no piece is longer than ``longest`` seconds.

    Each cut is the quietest place in the second half of the longest possible piece.
    Therefore each piece but the last is between half of ``longest`` and ``longest``.

    Args:
        samples: ``(n,)``.
        fs: sampling rate in Hz.
        longest: seconds.
    Returns:
        Index of the first sample of each piece, and the number of samples.
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

"""Smallest and largest number of tokens of an utterance."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.search.options import DecodeOptions


def length_limits(frames: Tensor, options: DecodeOptions) -> tuple[Tensor, Tensor]:
    """Return fewest and most tokens of each utterance, without <eos>.

    The ratios are ESPnet's ``minlenratio`` and ``maxlenratio``, relative to the frames
    of the prompt. A positive ratio is a share of the frames, rounded down. A negative
    one is a number of tokens: -3 means 3. A largest ratio of 0 allows as many tokens as
    frames. The most is at least 1, and the fewest at most the most.

    Args:
        frames: valid prompt frames, ``(B,)``.

    Returns:
        Fewest and most, ``(B,)`` int64 each, on the device of ``frames``.
    """
    least, most = options.min_length_ratio, options.max_length_ratio
    low, high = [], []
    for count in frames.tolist():
        bound = int(-most) if most < 0 else int(most * count) if most > 0 else count
        high.append(max(1, bound))
        low.append(min(high[-1], int(-least) if least < 0 else int(least * count)))
    return (
        torch.tensor(low, device=frames.device),
        torch.tensor(high, device=frames.device),
    )

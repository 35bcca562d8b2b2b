"""How many tokens an utterance may have."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.search.options import DecodeOptions


def length_limits(frames: Tensor, options: DecodeOptions) -> tuple[Tensor, Tensor]:
    """Fewest and most tokens of each utterance, <eos> not counted.

    ESPnet's ``minlenratio`` and ``maxlenratio``, over the prompt's frames: a positive
    ratio is a share of them, rounded down; a negative one is the count itself; a
    largest ratio of 0 allows as many tokens as frames. The most is never below 1, and
    the fewest never above the most.

    Args:
        frames: valid prompt frames, ``(B,)``.

    Returns:
        fewest and most, ``(B,)`` int64 on the device of ``frames``.
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

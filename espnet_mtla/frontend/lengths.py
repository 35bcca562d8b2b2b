"""Masks and reflection padding for batches of rows of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, size: int) -> Tensor:
    """Return a mask (B, size), true where position < length; ``lengths`` is (B,).

    >>> valid_frames(torch.tensor([1, 3]), 3).tolist()
    [[True, False, False], [True, True, True]]
    """
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def reflect_tail(speech: Tensor, lengths: Tensor, samples: int) -> Tensor:
    """Append to each row its reflection, starting where the row ends.

    A centred STFT reflects the signal at the end of the *tensor*. Without this function
    the last frames of a short row would contain zeros in a batch, but the reflection
    when the row is alone. With it, they are the same in both.

    >>> reflect_tail(torch.tensor([[1, 2, 3, 0]]), torch.tensor([3]), 2).tolist()
    [[1, 2, 3, 2, 1, 1]]

    Args:
        speech: (B, L) samples, valid up to ``lengths`` (B,).
        samples: number of samples to append; half the STFT's window.
    Returns:
        (B, L + samples); positions after the reflection repeat the row's first sample.
    """
    position = torch.arange(speech.size(1) + samples, device=speech.device)
    last = (lengths - 1).unsqueeze(1)
    source = torch.where(position <= last, position, 2 * last - position)
    return speech.gather(1, source.clamp(min=0))

"""Rows of different lengths in one tensor: masks, and tails that fit the row."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, size: int) -> Tensor:
    """Mask (B, size), true where position < the row's length. ``lengths``: (B,)."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def reflect_tail(speech: Tensor, lengths: Tensor, samples: int) -> Tensor:
    """Append to each row its own mirror image, where the row ends.

    A centred STFT mirrors the signal at the end of the *tensor*: the last frames of a
    short row would see zeros in a batch and its reflection alone. With the mirror image
    put there first they see the same in both.

    Args:
        speech: (B, L) samples, valid up to ``lengths`` (B,).
        samples: how many to append, half the STFT's window.
    Returns:
        (B, L + samples); what lies beyond a row's reflection repeats its first sample.
    """
    position = torch.arange(speech.size(1) + samples, device=speech.device)
    last = (lengths - 1).unsqueeze(1)
    source = torch.where(position <= last, position, 2 * last - position)
    return speech.gather(1, source.clamp(min=0))

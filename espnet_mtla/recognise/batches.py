"""Batches of utterances of similar length, as large as options and memory allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from espnet_mtla.recognise.memory import (
    batch_frames,
    check_fits,
    free_bytes,
    total_bytes,
)
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel


def plan_batches(
    trained: TrainedModel, options: DecodeOptions, frames: Sequence[int]
) -> list[list[int]]:
    """Plan the batches to decode in, on the device and memory of this moment.

    Args:
        trained: the model.
        options: ``batch_frames`` is the largest size of a batch; a batch is smaller
            where the caches of a larger one would not fit into the free memory.
        frames: length of each utterance in frames of 10 ms, or in tokens of a text.
    Returns:
        Batches as indices into ``frames``, shortest utterances first.
    Raises:
        UserError: one utterance needs more memory than there is.
    """
    longest = max(frames, default=0)
    check_fits(trained, options, longest, total_bytes(trained.device))
    if len(frames) < 2:
        return [[index] for index in range(len(frames))]
    free = free_bytes(trained.device)
    return make_batches(frames, batch_frames(trained, options, longest, free))


def make_batches(frames: Sequence[int], largest: int) -> list[list[int]]:
    """Group utterances of similar length.

    >>> make_batches([30, 10, 20], largest=40)
    [[1, 2], [0]]

    Args:
        frames: length of each utterance.
        largest: size of a batch at most: its longest utterance times their number. A
            longer utterance is a batch by itself.
    Returns:
        Batches as indices into ``frames``, shortest utterances first.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(frames)), key=lambda index: frames[index]):
        if batches and (len(batches[-1]) + 1) * frames[index] <= largest:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches

"""Rows of running state: one utterance has ``K`` rows, and may replace another one.

Decoding state is a set of tensors with a row an utterance or a hypothesis. Row
``b * K + k`` is hypothesis k of the utterance at place b.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(utterances: Tensor, beam: int) -> Tensor:
    """Return the rows ``(B' K,)`` of the utterances at these places ``(B',)``.

    >>> rows_of(torch.tensor([2, 0]), beam=3).tolist()
    [6, 7, 8, 0, 1, 2]
    """
    beams = torch.arange(beam, device=utterances.device)
    return (utterances.unsqueeze(1) * beam + beams).flatten()


def put_rows(old: Tensor, new: Tensor, rows: Tensor, fill: float = 0) -> Tensor:
    """Write ``new`` over the rows ``rows`` of ``old``; return the result.

    It is written in place if ``old`` is large enough. Otherwise the result is a larger
    tensor: rows behind the last one are appended, and other dimensions grow to those of
    ``new``. A new row that is smaller than the others is filled up.

    >>> old = torch.tensor([[1, 1, 1], [2, 2, 2]])
    >>> put_rows(old, torch.tensor([[7], [8]]), torch.tensor([0, 2])).tolist()
    [[7, 0, 0], [2, 2, 2], [8, 0, 0]]

    Args:
        old: ``(n, ...)``.
        new: ``(m, ...)``, with as many dimensions.
        rows: where each new row goes, ``(m,)``; rows to append follow the last of
            ``old`` without a gap.
        fill: value behind the end of smaller rows.
    """
    count = max(len(old), int(rows.max()) + 1)
    pairs = zip(old.shape[1:], new.shape[1:], strict=True)
    shape = (count, *(max(a, b) for a, b in pairs))
    if shape != old.shape:
        larger = old.new_full(shape, fill)
        larger[tuple(slice(size) for size in old.shape)] = old
        old = larger
    if shape[1:] != new.shape[1:]:
        old[rows] = fill
    room = (count, *new.shape[1:])
    old[tuple(slice(size) for size in room)][rows] = new  # through a view
    return old

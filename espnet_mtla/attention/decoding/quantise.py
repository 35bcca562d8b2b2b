"""Cache entries in 8 bits: numbers as int8 or float8 (e4m3), with a scale an entry.

The scale is float32 and maps the entry's largest magnitude to the largest number of the
format. The error of a number is then at most half a step of the format: 1/254 of the
entry's largest magnitude for int8, and 1/16 of the number itself for float8.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Name: largest number, and the dtype of storage. float8 is stored as uint8, since not
# all indexing functions support float8.
_FORMATS = {"int8": (127.0, torch.int8), "fp8": (448.0, torch.uint8)}
CACHE_DTYPES = tuple(_FORMATS)
SCALE_BYTES = 4


def stored_type(number_format: str) -> torch.dtype:
    """Return the dtype in which numbers of the format ``number_format`` are stored."""
    return _FORMATS[number_format][1]


def quantise(entries: Tensor, number_format: str) -> tuple[Tensor, Tensor]:
    """Quantise entries ``(..., w)``.

    >>> numbers, scale = quantise(torch.tensor([0.5, -1.27]), "int8")
    >>> numbers.tolist(), round(scale.item(), 4)
    ([50, -127], 0.01)

    Returns:
        Stored numbers ``(..., w)`` and scales ``(..., 1)``.
    """
    largest, stored = _FORMATS[number_format]
    exact = entries.float()
    scale = exact.abs().amax(-1, keepdim=True) / largest
    numbers = exact / scale.clamp(min=torch.finfo(torch.float32).tiny)
    if number_format == "int8":
        return numbers.round().to(stored), scale
    return numbers.to(torch.float8_e4m3fn).view(stored), scale


def restore(
    numbers: Tensor, scale: Tensor, number_format: str, dtype: torch.dtype
) -> Tensor:
    """Undo :func:`quantise` up to its rounding; returns ``(..., w)`` in ``dtype``."""
    if number_format == "fp8":
        numbers = numbers.view(torch.float8_e4m3fn)
    return (numbers.float() * scale).to(dtype)


def read_entries(
    numbers: Tensor, scale: Tensor | None, number_format: str | None, dtype: torch.dtype
) -> Tensor:
    """Return stored entries ``(..., w)`` in ``dtype``; without a scale as they are."""
    if scale is None or number_format is None:
        return numbers
    return restore(numbers, scale, number_format, dtype)


def put_entries(
    target: tuple[Tensor, Tensor | None],
    rows: Tensor,
    slots: Tensor,
    entries: Tensor,
    number_format: str | None,
) -> None:
    """Write entries ``(n, G, w)``; number i goes to ``slots[i]`` of ``rows[i]``.

    Args:
        target: numbers ``(N, G, S, w)`` and scales ``(N, G, S, 1)``; None: no scales.
        rows: ``(n,)``.
        slots: ``(n,)``.
        entries: in full precision.
        number_format: of the stored numbers; None: in full precision.
    """
    numbers, scale = target
    if scale is None or number_format is None:
        numbers[rows, :, slots] = entries
        return
    quantised, new_scale = quantise(entries, number_format)
    numbers[rows, :, slots] = quantised
    scale[rows, :, slots] = new_scale

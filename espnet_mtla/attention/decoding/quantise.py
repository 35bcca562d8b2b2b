"""Entries in 8 bits: numbers as int8 or float8 (e4m3), and a scale for each entry.

A scale is float32 and maps the entry's largest number to the largest of the format, so
that an entry's error is at most half a step of the format at its own size: 1/254 of
the largest number for int8, and 1/16 of each number for float8.
"""

from __future__ import annotations

import torch
from torch import Tensor

# name: largest number, type that is stored; float8 lies in uint8, which all indexing
# functions know
_FORMATS = {"int8": (127.0, torch.int8), "fp8": (448.0, torch.uint8)}
CACHE_DTYPES = tuple(_FORMATS)
SCALE_BYTES = 4


def stored_type(kind: str) -> torch.dtype:
    """The type in which numbers of this kind lie in memory."""
    return _FORMATS[kind][1]


def quantise(entries: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Entries ``(..., w)`` to stored numbers ``(..., w)`` and scales ``(..., 1)``."""
    most, stored = _FORMATS[kind]
    exact = entries.float()
    scale = exact.abs().amax(-1, keepdim=True) / most
    numbers = exact / scale.clamp(min=torch.finfo(torch.float32).tiny)
    if kind == "int8":
        return numbers.round().to(stored), scale
    return numbers.to(torch.float8_e4m3fn).view(stored), scale


def restore(numbers: Tensor, scale: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`quantise`, up to its rounding, in ``dtype``."""
    if kind == "fp8":
        numbers = numbers.view(torch.float8_e4m3fn)
    return (numbers.float() * scale).to(dtype)

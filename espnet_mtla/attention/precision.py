"""Constants and types of floating-point arithmetic that several modules share."""

from __future__ import annotations

import math

import torch

NEG_INF = -math.inf
"""Score or log-probability of what is impossible, and log-sum-exp of no scores."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums of ``dtype`` numbers are accumulated.

    It is float32, and float64 for float64.

    >>> accumulation_dtype(torch.bfloat16), accumulation_dtype(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32

"""No speed is reported of a wrong result."""

from __future__ import annotations

import torch

from espnet_mtla.errors import UserError


def check_close(
    name: str, result: torch.Tensor, expected: torch.Tensor, tolerance: float
) -> float:
    """Largest difference, as a share of the largest number expected.

    Raises:
        UserError: above ``tolerance``, or shapes that differ, or NaN anywhere.
    """
    if result.shape != expected.shape:
        raise UserError(
            f"{name}: shape {tuple(result.shape)} where {tuple(expected.shape)} is "
            "right; nothing was measured"
        )
    exact = expected.detach().double()
    difference = (result.detach().double().to(exact.device) - exact).abs().max()
    error = float(difference / exact.abs().max().clamp(min=1e-30))
    if not error <= tolerance:
        raise UserError(
            f"{name}: differs by {error:.2e} where {tolerance:.0e} is allowed; "
            "nothing was measured"
        )
    return error

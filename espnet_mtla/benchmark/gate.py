"""The correctness check of the benchmarks: a wrong result is not timed."""

from __future__ import annotations

import torch

from espnet_mtla.errors import UserError


def check_close(
    name: str, result: torch.Tensor, expected: torch.Tensor, tolerance: float
) -> float:
    """Return the largest difference, relative to the largest expected magnitude.

    Args:
        name: of what is checked, for the message.
        result: any shape and dtype, on any device.
        expected: the exact values, of the same shape.
        tolerance: largest relative difference allowed.

    Raises:
        UserError: the difference is larger, shapes differ, or a value is NaN.
    """
    if result.shape != expected.shape:
        raise UserError(
            f"{name}: shape {tuple(result.shape)}, expected {tuple(expected.shape)}; "
            "nothing was measured"
        )
    exact = expected.detach().double()
    difference = (result.detach().double().to(exact.device) - exact).abs().max()
    error = float(difference / exact.abs().max().clamp(min=1e-30))
    if not error <= tolerance:  # also true for NaN
        raise UserError(
            f"{name}: differs by {error:.2e}, {tolerance:.0e} is allowed; "
            "nothing was measured"
        )
    return error

"""Rotary position embedding on interleaved pairs (2k, 2k + 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.precision import accumulation_dtype


def rotary_angles(
    position: Tensor, dim: int, base: float, dtype: torch.dtype
) -> Tensor:
    """Angles of each pair at each position: ``position * base ** (-2k / dim)``.

    Args:
        position: positions in tokens, any shape ``(...)``, whole or fractional.
        dim: width that is rotated, even.
        base: 10000 in the paper.
        dtype: of the activations. Angles are float32 for every type up to float32: a
            position counted in bfloat16 would stick at 256.

    Returns:
        ``(..., dim / 2)``.
    """
    exact = accumulation_dtype(dtype)
    pair = torch.arange(0, dim, 2, device=position.device, dtype=exact)
    return position.to(exact).unsqueeze(-1) * base ** (-pair / dim)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs of ``x (..., dim)`` by ``angles (..., dim / 2)``."""
    if x.size(-1) == 0:
        return x
    pairs = x.to(angles.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which makes one kernel of these, and none below
        even, odd = pairs.unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        turn = torch.polar(torch.ones_like(angles), angles)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return turned.flatten(-2).to(x.dtype)

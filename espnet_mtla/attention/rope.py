"""Rotary position embedding: each pair of numbers (2k, 2k + 1) is rotated.

The pair k of a token at position p is rotated by the angle ``p base^(-2k / dim)``. The
dot product of a rotated query and a rotated key then depends on the difference of their
positions alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.precision import accumulation_dtype


def rotary_angles(
    position: Tensor, dim: int, base: float, dtype: torch.dtype
) -> Tensor:
    """Return the angle of each pair at each position.

    >>> rotary_angles(torch.tensor([0, 1, 2]), 4, 10000.0, torch.float32)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])

    Args:
        position: positions in tokens, any shape ``(...)``, whole or fractional.
        dim: numbers that are rotated, even.
        base: 10000 in the paper.
        dtype: of the activations. Angles are float32 even for half precision, since
            bfloat16 represents whole numbers only up to 256.

    Returns:
        ``(..., dim / 2)``, in radians.
    """
    exact = accumulation_dtype(dtype)
    pair = torch.arange(0, dim, 2, device=position.device, dtype=exact)
    return position.to(exact).unsqueeze(-1) * base ** (-pair / dim)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs of ``x (..., dim)`` by ``angles (..., dim / 2)``, in radians.

    >>> rotate(torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor([0.5403, 0.8415, 0.0000, 2.0000])
    """
    if x.size(-1) == 0:
        return x
    pairs = x.to(angles.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # fuses these; it has no complex numbers
        even, odd = pairs.unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        turn = torch.polar(torch.ones_like(angles), angles)
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return turned.flatten(-2).to(x.dtype)

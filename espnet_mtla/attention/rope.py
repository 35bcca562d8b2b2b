"""Rotary position embedding: each pair of numbers (2k, 2k + 1) is rotated.

The pair k of a token at position p is rotated by the angle ``p base^(-2k / dim)``. The
dot product of a rotated query and a rotated key then depends on the difference of their
positions alone.
"""

from __future__ import annotations

import functools

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


def angles_at(
    position: Tensor, frequencies: tuple[float, ...], dtype: torch.dtype
) -> Tensor:
    """Return the angle of each pair at each position, for any frequencies.

    >>> angles_at(torch.tensor([0, 2]), (1.0, 0.25), torch.float32)
    tensor([[0.0000, 0.0000],
            [2.0000, 0.5000]])

    Args:
        position: positions in tokens, ``(...)``.
        frequencies: radians per token of each pair.
        dtype: of the activations; angles are float32 at least.

    Returns:
        ``(..., pairs)``, in radians.
    """
    exact = accumulation_dtype(dtype)
    if torch.compiler.is_compiling():
        values = torch.tensor(frequencies, dtype=exact, device=position.device)
    else:
        values = _on_device(frequencies, exact, position.device)
    return position.to(exact).unsqueeze(-1) * values


@functools.cache
def _on_device(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a tensor of ``values``, always the same one: a CUDA graph reads it.

    Copying from the host is not allowed while a graph is recorded.
    """
    with torch.inference_mode(False):  # training may use it later
        return torch.tensor(values, dtype=dtype, device=device)


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

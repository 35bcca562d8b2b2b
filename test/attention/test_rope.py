"""Rotation of pairs, against matrices written out, eager and compiled alike."""

from __future__ import annotations

import pytest
import torch

from espnet_mtla.attention.rope import rotary_angles, rotate


def by_matrices(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    for index in torch.cartesian_prod(*map(torch.arange, x.shape[:-1])).tolist():
        for pair, angle in enumerate(angles[tuple(index)].tolist()):
            turn = torch.tensor(angle, dtype=torch.float64)
            matrix = torch.stack((turn.cos(), -turn.sin(), turn.sin(), turn.cos()))
            old = x[(*index, slice(2 * pair, 2 * pair + 2))]
            out[(*index, slice(2 * pair, 2 * pair + 2))] = matrix.view(2, 2) @ old
    return out


@pytest.mark.parametrize("compiling", [False, True])
def test_pairs_turn(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x = torch.randn(2, 5, 9, dtype=torch.float64)[..., 1:7].requires_grad_()
    angles = rotary_angles(torch.arange(5).repeat(2, 1), 6, 10000.0, x.dtype)
    torch.testing.assert_close(rotate(x, angles), by_matrices(x, angles))
    assert torch.autograd.gradcheck(lambda given: rotate(given, angles), x)
    heads = torch.randn(2, 3, 5, 6)  # angles of a token serve all its heads
    turned = rotate(heads, angles.float().unsqueeze(1))
    for head in range(3):
        exact = by_matrices(heads[:, head].double(), angles)
        torch.testing.assert_close(turned[:, head].double(), exact, rtol=0, atol=1e-6)
    half = heads.to(torch.bfloat16)
    assert rotate(half, angles.float().unsqueeze(1)).dtype == torch.bfloat16
    assert rotate(x[..., :0], angles[..., :0]).shape == (2, 5, 0)

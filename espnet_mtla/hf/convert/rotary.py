r"""Choose the components that stay rotary, after a rotation of all heads' keys.

MLA has one rotary key for all heads, a Llama one per key-value head. Written as
complex numbers, pair k of the keys of all G heads is a vector in C^G which the position
multiplies by one number, :math:`e^{i \theta_k j}`. A unitary :math:`U_k` therefore
commutes with the rotation, and

.. math:: \mathrm{Re}\langle q, k\rangle = \mathrm{Re}\langle U_k^H q, U_k^H k\rangle

where a query head's vector is zero except at its own group. If :math:`U_k` holds the
eigenvectors of the keys' second moment, few components have most of the energy (for
real rotations this is RoRoPE of TransMLA, arXiv 2502.07864). The importance of the
rotation of component (k, c) is the squared error of scores without it,

.. math:: E|q|^2\, E|k|^2\, \mathrm{mean}_\Delta\,|e^{i \theta_k \Delta} - 1|^2 ,

with weights :math:`1 / (1 + \Delta)`, so that near distances count more. With equal
weights slow pairs were chosen, which matter least: a small model trained on licences
had a perplexity of 7.75 instead of 6.91 (6.79 before conversion).

Letters: ``H``, ``G``, ``d``, ``D`` as in :mod:`.source`; ``K = d / 2`` pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.hf.convert.source import Projections


@dataclass(frozen=True)
class RotatedKeys:
    """The keys of a layer in the basis of each pair's eigenvectors."""

    basis: Tensor  # U, (K, G, G), a component per column, the strongest first
    keys: Tensor  # U^H k as maps of [x; 1], (K, G, D + 1) complex
    importance: Tensor  # of each component's rotation, (K, G)


def rotate_keys(
    layer: Projections, moment: Tensor, frequencies: Tensor, context: int
) -> RotatedKeys:
    """Rotate the keys of a layer into their principal components.

    Args:
        layer: the Llama's projections.
        moment: second moment of the inputs, ``(D + 1, D + 1)``.
        frequencies: radians per token of each pair, ``(K,)``.
        context: largest distance that counts, in tokens.
    """
    keys = as_complex(layer.k).transpose(0, 1)  # (K, G, D + 1)
    moment = moment.to(keys.dtype)
    strength, basis = torch.linalg.eigh(keys @ moment @ keys.mH)
    strength, basis = strength.flip(-1).clamp(min=0), basis.flip(-1)
    queries = as_complex(layer.q)  # (H, K, D + 1)
    energy = torch.einsum("hkx,xy,hky->hk", queries, moment, queries.conj()).real
    share = basis[:, layer.group].abs() ** 2  # (K, H, G): of component c in head h
    energy = torch.einsum("hk,khc->kc", energy, share) / len(layer.q)
    distance = torch.arange(context, dtype=torch.float64, device=frequencies.device)
    weight = 1 / (1 + distance)
    same = torch.cos(frequencies[:, None] * distance) @ weight / weight.sum()
    error = 2 - 2 * same  # mean of |e^(i theta delta) - 1|^2, (K,)
    return RotatedKeys(basis, basis.mH @ keys, energy * strength * error[:, None])


def choose_components(importances: list[Tensor], pairs: int) -> Tensor:
    """Choose ``pairs`` components that stay rotary; return True at these, ``(K, G)``.

    They are the same in all layers, since a model has one set of rotary frequencies.
    """
    first, *others = (i / i.sum().clamp(min=1e-30) for i in importances)
    order = sum(others, first).flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros_like(importances[0], dtype=torch.bool)
    chosen.view(-1)[order[:pairs]] = True
    return chosen


def as_complex(heads: Tensor) -> Tensor:
    """Convert ``(N, d, X)`` of pairs (i, i + d / 2) to complex ``(N, d / 2, X)``."""
    real, imaginary = heads.chunk(2, dim=1)
    return torch.complex(real.contiguous(), imaginary.contiguous())

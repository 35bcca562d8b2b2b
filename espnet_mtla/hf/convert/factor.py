r"""MLA weights of a layer: rotary keys, and a joint factorisation of all the rest.

After :mod:`.rotary` the score of a head is that of the rotary components, plus
:math:`q_h^T B_h^T k_N` of the others, whose rotation is dropped. These and the values
of all heads are one vector :math:`z = [k_N; v] = W_z [x; 1]`. A latent holds r numbers
:math:`c = E z` with :math:`z \approx F c`. The error is measured in scores and
outputs:

.. math:: \min_{E, F}\ \mathbf{E}\,\| M^{1/2} (z - F E z) \|^2, \qquad
   M = \mathrm{diag}(\tfrac{1}{H} \sum_h B_h C_{q_h} B_h^T,\
                     \sum_h W_{o,h}^T W_{o,h})

with both parts scaled to trace 1 over the data. The solution is given by the r leading
eigenvectors of :math:`M^{1/2} C_z M^{1/2}`. MLA's up-projection of head h is
:math:`B_h^T F_N` for keys and :math:`F_v` of its group for values.

**Lossless conversion.** With r at least the length of z, E is a scaling and F its
inverse. With all components rotary there is no :math:`k_N`, and z is the values. The
softmax scale changes from :math:`1/\sqrt{d}` to :math:`1/\sqrt{d_N + d_R}`, which is
compensated in the queries. The latent's norm and the merge weight need care:

- A LayerNorm removes mean and scale of each token, which no linear map restores.
  Converted models are therefore built with ``kv_norm="none"``.
- :math:`F_p = 0` makes every merge weight 1/2. A factor 2/s in the up-projection turns
  that into 1/s: at s = 1 nothing changes, at s > 1 a full chunk is the mean of its
  tokens. The sigmoid has its largest slope at 1/2, which helps healing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_mtla.hf.convert.rotary import RotatedKeys, as_complex
from espnet_mtla.hf.convert.source import Projections

RIDGE = 1e-6
"""Share of the metric's mean added to its diagonal: no direction counts nothing."""


@dataclass(frozen=True)
class LatentWeights:
    """Weights of one layer with biases as the last column, and their energy.

    Letters: ``H`` heads, ``D`` model width, ``d_N``, ``d_R`` and ``d_V`` widths of a
    head's key from the latent, of the rotary key and of a value, ``r`` latent width.
    """

    q: Tensor  # (H (d_N + d_R), D + 1)
    kv_a: Tensor  # (r + d_R, D + 1)
    kv_b: Tensor  # (H (d_N + d_V), r)
    energy: float  # share of the energy of z that latents preserve, in the metric


def factor_layer(
    layer: Projections,
    rotated: RotatedKeys,
    moment: Tensor,
    chosen: Tensor,
    rank: int,
) -> LatentWeights:
    """Compute the MLA weights of a layer; see the module for the mathematics.

    Args:
        layer: the Llama's projections.
        rotated: its keys in principal components.
        moment: second moment of the inputs, ``(D + 1, D + 1)``.
        chosen: True at components that stay rotary, ``(K, G)``.
        rank: latent width r.
    """
    heads, width = layer.q.shape[:2]
    rest = ~chosen
    nope = _to_rest(layer, rotated, rest)
    z = torch.cat((_as_rows(rotated.keys, rest), layer.v.flatten(0, 1)))
    metric = _metric(layer, nope, moment, z)
    encode, decode, energy = low_rank(z @ moment @ z.T, metric, rank)
    keys = nope.size(1)
    up = decode[:keys], decode[keys:].unflatten(0, (-1, width))
    q_nope, k_nope = layer.q, nope.transpose(1, 2) @ up[0]  # (H, d, D + 1), (H, d, r)
    if keys == 0:  # the attention requires a width of at least 1
        q_nope, k_nope = (
            torch.zeros_like(layer.q[:, :1]),
            layer.q.new_zeros(heads, 1, rank),
        )
    q = torch.cat((q_nope, _rotary_queries(layer, rotated, chosen)), dim=1)
    return LatentWeights(
        q=q.flatten(0, 1) * (q.size(1) / width) ** 0.5,
        kv_a=torch.cat((encode @ z, _as_rows(rotated.keys, chosen))),
        kv_b=torch.cat((k_nope, up[1][layer.group]), dim=1).flatten(0, 1),
        energy=energy,
    )


def low_rank(moment: Tensor, metric: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Find the linear code of z with the smallest error in a metric.

    Args:
        moment: second moment of z, ``(m, m)``.
        metric: M, ``(m, m)``.
        rank: numbers r of the code; at least m: lossless.

    Returns:
        E ``(r, m)`` and F ``(m, r)`` with ``F E z`` near z and codes of unit energy,
        and the share of the energy preserved.
    """
    size = len(moment)
    if rank >= size:
        scale = moment.diagonal().clamp(min=1e-12).sqrt()
        encode, decode = moment.new_zeros(rank, size), moment.new_zeros(size, rank)
        encode.diagonal().copy_(1 / scale)
        decode.diagonal().copy_(scale)
        return encode, decode, 1.0
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    back = vectors / values.clamp(min=1e-30).sqrt() @ vectors.T
    energy, directions = torch.linalg.eigh(root @ moment @ root)
    energy, directions = energy.flip(0).clamp(min=0), directions.flip(1)[:, :rank]
    scale = energy[:rank].clamp(min=1e-12 * float(energy[0])).sqrt()
    encode = directions.T @ root / scale[:, None]
    decode = back @ directions * scale
    return encode, decode, float(energy[:rank].sum() / energy.sum())


def _metric(layer: Projections, nope: Tensor, moment: Tensor, z: Tensor) -> Tensor:
    """Compute M over z, ``(m, m)``; ``nope (H, m_N, d)`` are the B_h."""
    queries = layer.q @ moment @ layer.q.transpose(1, 2)  # (H, d, d)
    keys = (nope @ queries @ nope.transpose(1, 2)).mean(0)
    outputs = layer.o.transpose(1, 2) @ layer.o  # (H, d, d)
    groups = len(layer.v)
    values = torch.block_diag(*outputs.unflatten(0, (groups, -1)).sum(1))
    energy = z @ moment @ z.T
    parts = []
    for part, start in ((keys, 0), (values, len(keys))):
        stop = start + len(part)
        total = (part @ energy[start:stop, start:stop]).trace().clamp(min=1e-30)
        parts.append(part / total)
    metric = torch.block_diag(*parts)
    return metric + RIDGE * metric.diagonal().mean() * torch.eye(
        len(metric), dtype=metric.dtype, device=metric.device
    )


def _as_rows(keys: Tensor, components: Tensor) -> Tensor:
    """Return components as real rows, real parts first: ``(2 n, D + 1)``."""
    return _parts(keys[components], dim=0)


def _query_factors(
    layer: Projections, rotated: RotatedKeys, components: Tensor
) -> Tensor:
    """Return the factors that map each head's queries to components, ``(H, n)``."""
    pair, component = components.nonzero(as_tuple=True)
    return rotated.basis[pair, :, component].conj()[:, layer.group].T


def _to_rest(layer: Projections, rotated: RotatedKeys, rest: Tensor) -> Tensor:
    """Return all B_h ``(H, 2 n, d)``, from queries to components that do not rotate."""
    heads, width = layer.q.shape[:2]
    factor, pair = _query_factors(layer, rotated, rest), rest.nonzero()[:, 0]
    row = torch.arange(len(pair), device=pair.device)
    maps = factor.new_zeros(heads, len(pair), width)
    maps[:, row, pair], maps[:, row, width // 2 + pair] = factor, 1j * factor
    return _parts(maps)


def _rotary_queries(layer: Projections, rotated: RotatedKeys, chosen: Tensor) -> Tensor:
    """Return each head's rotary query as a map of ``[x; 1]``, ``(H, d_R, D + 1)``."""
    factor, pair = _query_factors(layer, rotated, chosen), chosen.nonzero()[:, 0]
    return _parts(factor.unsqueeze(-1) * as_complex(layer.q)[:, pair])


def _parts(numbers: Tensor, dim: int = 1) -> Tensor:
    """Concatenate real and imaginary parts along ``dim``."""
    return torch.cat((numbers.real, numbers.imag), dim)

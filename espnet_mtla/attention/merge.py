"""Temporal merging: the hyper-network's weights and the running sums of a chunk.

Symbols: ``s`` stride (``down_rate``), ``c_j`` latent of token j, ``w_j`` its merge
weight, ``m_i`` the merged latent that token i sees (paper section 4.2, eq. 9 to 13):

    w_j = sigmoid(<F_c pe(j // s), F_p c_j>)
    m_i = sum of w_j c_j over the tokens j <= i of i's own chunk

Inside a chunk w_j does not depend on i, so m is a running sum that restarts with every
chunk: no T x T matrix is needed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_mtla.attention.linear import is_plain_linear
from espnet_mtla.attention.overrides import is_plain
from espnet_mtla.attention.precision import accumulation_dtype


class HyperNetwork(nn.Module):
    """Merge weights from a token's latent and its chunk's index.

    ``fc_c``, ``fc_p`` and the sizes are the reference's, so that state dicts match.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.fc_c = nn.Linear(rank, rank // 4)
        self.fc_p = nn.Linear(rank, rank // 4)

    def forward(self, latents: Tensor, stride: int) -> Tensor:
        """Weights ``(B, T, 1)`` of whole rows of latents ``(B, T, r)``."""
        tokens = latents.size(1)
        chunks = torch.arange(-(-tokens // stride), device=latents.device)
        features = self.fc_c(chunk_encoding(chunks, self.rank).to(latents.dtype))
        return self._weigh(latents, features.repeat_interleave(stride, 0)[:tokens])

    def weigh(self, latents: Tensor, chunk_encodings: Tensor) -> Tensor:
        """The same for any tokens, their chunks encoded as ``(B or 1, T, r)``."""
        return self._weigh(latents, self.fc_c(chunk_encodings))

    def is_plain(self) -> bool:
        """Return True if nothing but this class and plain layers makes the weights."""
        own = is_plain(self, HyperNetwork, ("weigh", "_weigh"))
        layers = (self.fc_c, self.fc_p)
        return own and all(is_plain_linear(x) and x.bias is not None for x in layers)

    def _weigh(self, latents: Tensor, features: Tensor) -> Tensor:
        return torch.sigmoid((features * self.fc_p(latents)).sum(-1, keepdim=True))


def chunk_encoding(chunks: Tensor, rank: int) -> Tensor:
    """Sinusoidal encoding ``(..., rank)`` of chunk indices: sine, cosine, in turn."""
    exponent = torch.arange(0, rank, 2, device=chunks.device, dtype=torch.float32)
    frequency = torch.exp(exponent * (-math.log(10000.0) / rank))
    angle = chunks.to(torch.float32).unsqueeze(-1) * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def running_sums(
    values: Tensor,
    stride: int,
    start: Tensor | None = None,
    open_sum: Tensor | None = None,
) -> Tensor:
    """Running sums of ``values (B, T, r)`` that restart at each multiple of ``stride``.

    Args:
        start: tokens each row has seen before, ``(B,)``; None where all begin at 0.
        carry: the open chunk's sum before the first token, ``(B, r)``; read only where
            ``start`` is no multiple of ``stride``.

    Half-precision values are summed in float32.
    """
    if stride == 1:
        return values
    exact = values.to(accumulation_dtype(values.dtype))
    if start is None:
        return _sum_aligned(exact, stride).to(values.dtype)
    phase = start % stride  # (B,)
    grid = _shifted_grid(exact, stride, phase, open_sum)
    sums = _sum_aligned(grid, stride)
    token = phase.unsqueeze(1) + torch.arange(values.size(1), device=values.device)
    index = token.unsqueeze(-1).expand(values.shape)
    return sums.gather(1, index).to(values.dtype)


def add_to_open(value: Tensor, open_sum: Tensor, is_open: Tensor) -> Tensor:
    """:func:`running_sums` of a single token a row, ``(B, 1, r)``.

    ``carry (B, r)`` is read where ``is_open (B, 1)``. Half precision needs no float32
    here: the sum of two numbers is rounded once in any case.
    """
    return value + open_sum.masked_fill(~is_open, 0.0).unsqueeze(1)


def _sum_aligned(values: Tensor, stride: int) -> Tensor:
    tokens = values.size(1)
    padded = F.pad(values, (0, 0, 0, -tokens % stride))
    return padded.unflatten(1, (-1, stride)).cumsum(2).flatten(1, 2)[:, :tokens]


def _shifted_grid(
    values: Tensor, stride: int, phase: Tensor, open_sum: Tensor | None
) -> Tensor:
    """Each row moved right by its phase, with the carried sum just before its first."""
    batch, tokens, width = values.shape
    grid = values.new_zeros(batch, tokens + stride - 1, width)
    index = phase.unsqueeze(1) + torch.arange(tokens, device=values.device)
    grid.scatter_(1, index.unsqueeze(-1).expand(values.shape), values)
    if open_sum is not None:
        rows = torch.arange(batch, device=values.device)
        before = (phase - 1).clamp(min=0)
        kept = torch.where(
            (phase > 0).unsqueeze(1), open_sum.to(values), grid[rows, before]
        )
        grid[rows, before] = kept
    return grid

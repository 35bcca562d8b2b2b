"""Temporal merging: the hyper-network's weights and the running sums of a chunk.

Symbols: ``s`` stride (``down_rate``), ``c_j`` latent of token j, ``w_j`` its merge
weight, ``m_i`` the merged latent that token i sees (paper section 4.2, eq. 9 to 13):

    w_j = sigmoid(<F_c pe(j // s), F_p c_j>)
    m_i = sum of w_j c_j over the tokens j <= i of i's own chunk

The paper writes this as a ``T x T`` matrix times the latents. Inside a chunk w_j does
not depend on i, so m is a running sum that restarts with every chunk, which takes T
additions and no matrix.

Letters: ``B`` rows, ``T`` tokens, ``r`` width of a latent.
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
    """Compute merge weights from latents and the indices of their chunks.

    Names and sizes of ``fc_c`` and ``fc_p`` are those of the reference, so that state
    dicts fit both.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.fc_c = nn.Linear(rank, rank // 4)
        self.fc_p = nn.Linear(rank, rank // 4)

    def forward(self, latents: Tensor, stride: int, offset: int = 0) -> Tensor:
        """Return weights ``(B, T, 1)`` of whole rows of latents ``(B, T, r)``.

        The first chunk lacks ``offset`` tokens.
        """
        end = latents.size(1) + offset
        chunks = torch.arange(-(-end // stride), device=latents.device)
        features = self.fc_c(chunk_encoding(chunks, self.rank).to(latents.dtype))
        features = features.repeat_interleave(stride, 0)[offset:end]
        return self._weigh(latents, features)

    def weigh(self, latents: Tensor, chunk_encodings: Tensor) -> Tensor:
        """Return weights ``(B, T, 1)`` of tokens with given chunk encodings.

        ``chunk_encodings`` are ``(B or 1, T, r)``, as :func:`chunk_encoding` returns.
        """
        return self._weigh(latents, self.fc_c(chunk_encodings))

    def is_plain(self) -> bool:
        """Return True if the weights come from this class and unmodified layers."""
        own = is_plain(self, HyperNetwork, ("weigh", "_weigh"))
        layers = (self.fc_c, self.fc_p)
        return own and all(is_plain_linear(x) and x.bias is not None for x in layers)

    def _weigh(self, latents: Tensor, features: Tensor) -> Tensor:
        return torch.sigmoid((features * self.fc_p(latents)).sum(-1, keepdim=True))


def chunk_encoding(chunks: Tensor, rank: int) -> Tensor:
    """Return the sinusoidal encoding ``(..., rank)`` of chunk indices ``(...)``.

    Sines and cosines alternate; their frequencies fall from 1 to nearly 1 / 10000.

    >>> chunk_encoding(torch.tensor([0, 1]), rank=4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    exponent = torch.arange(0, rank, 2, device=chunks.device, dtype=torch.float32)
    frequency = torch.exp(exponent * (-math.log(10000.0) / rank))
    angle = chunks.to(torch.float32).unsqueeze(-1) * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def running_sums(
    values: Tensor,
    stride: int,
    start: Tensor | None = None,
    open_sum: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Return running sums that restart with each chunk of ``stride`` tokens.

    >>> running_sums(torch.ones(1, 5, 1), stride=2).flatten()
    tensor([1., 2., 1., 2., 1.])

    Tokens 3 and 4 of a row whose chunk {2, 3} holds the sum 1 so far:

    >>> start, open_sum = torch.tensor([3]), torch.ones(1, 1)
    >>> running_sums(torch.ones(1, 2, 1), 2, start, open_sum).flatten()
    tensor([2., 1.])

    The first chunk lacks one token:

    >>> running_sums(torch.ones(1, 5, 1), stride=3, offset=1).flatten()
    tensor([1., 2., 1., 2., 3.])

    Args:
        values: ``(B, T, r)``. Half precision is summed in float32.
        stride: tokens of a chunk.
        start: index of each row's first token, ``(B,)``; None: 0.
        open_sum: sum of the chunk that the first token continues, ``(B, r)``; read only
            in rows where ``start + offset`` is no multiple of ``stride``.
        offset: tokens that the first chunk of a row lacks.

    Returns:
        ``(B, T, r)``.
    """
    if stride == 1:
        return values
    exact = values.to(accumulation_dtype(values.dtype))
    if start is None and offset == 0:
        return _sum_aligned(exact, stride).to(values.dtype)
    if start is None:
        padded = F.pad(exact, (0, 0, offset, 0))
        return _sum_aligned(padded, stride)[:, offset:].to(values.dtype)
    counted = start + offset if offset else start
    begun = counted % stride  # tokens of the open chunk, (B,)
    grid = _shifted_grid(exact, stride, begun, open_sum)
    sums = _sum_aligned(grid, stride)
    token = begun.unsqueeze(1) + torch.arange(values.size(1), device=values.device)
    index = token.unsqueeze(-1).expand(values.shape)
    return sums.gather(1, index).to(values.dtype)


def add_to_open(value: Tensor, open_sum: Tensor, is_open: Tensor) -> Tensor:
    """Return :func:`running_sums` of a single token a row, ``value (B, 1, r)``.

    ``open_sum (B, r)`` is read only where ``is_open (B, 1)``. Half precision needs no
    float32 here: the sum of two numbers is rounded once either way.
    """
    return value + open_sum.masked_fill(~is_open, 0.0).unsqueeze(1)


def _sum_aligned(values: Tensor, stride: int) -> Tensor:
    tokens = values.size(1)
    padded = F.pad(values, (0, 0, 0, -tokens % stride))
    return padded.unflatten(1, (-1, stride)).cumsum(2).flatten(1, 2)[:, :tokens]


def _shifted_grid(
    values: Tensor, stride: int, begun: Tensor, open_sum: Tensor | None
) -> Tensor:
    """Shift row b right by ``begun[b]`` tokens, so that chunks start in equal columns.

    The sum of the open chunk goes into the column before the row's first token, which
    belongs to the same chunk: the running sum then includes it.
    """
    batch, tokens, width = values.shape
    grid = values.new_zeros(batch, tokens + stride - 1, width)
    index = begun.unsqueeze(1) + torch.arange(tokens, device=values.device)
    grid.scatter_(1, index.unsqueeze(-1).expand(values.shape), values)
    if open_sum is not None:
        rows = torch.arange(batch, device=values.device)
        before = (begun - 1).clamp(min=0)
        before_first = torch.where(
            (begun > 0).unsqueeze(1), open_sum.to(values), grid[rows, before]
        )
        grid[rows, before] = before_first
    return grid

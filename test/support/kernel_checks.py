"""What a decode kernel must fulfil, on any device: the interpreter's and a GPU's tests.

Everything is compared with float64 arithmetic written out plainly here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from espnet_mtla.attention import EntryLayout
from espnet_mtla.attention.decoding.timeline import TokenPlacement
from espnet_mtla.attention.merge import HyperNetwork, chunk_encoding

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Largest error, as a share of the largest number: a few roundings of each type."""


def latent_layout(rank: int, rope_dim: int, stride: int = 1) -> EntryLayout:
    """MLA's and MTLA's entries: the latent is the value, and part of the key."""
    return EntryLayout(1, rank + rope_dim, rank + rope_dim, 0, rank, stride)


def head_layout(heads: int, width: int) -> EntryLayout:
    """MHA's, GQA's and MQA's entries: a key and a value beside each other."""
    return EntryLayout(heads, 2 * width, width, width, width)


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Largest difference, as a share of the largest number; NaN where there is NaN."""
    difference = (result.double().cpu() - exact.cpu()).abs().max()
    return float(difference / exact.abs().max().clamp(min=1e-30))


def poisoned_case(
    layout: EntryLayout,
    visible: Tensor,
    queries: int,
    slots: int,
    dtype: torch.dtype,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Random queries, and entries that are NaN wherever no query of the row looks.

    They lie in a larger buffer, as a cache's slots do, and the buffer is NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, heads = len(visible), layout.heads
    shape = (rows, heads, queries, layout.key_width)
    q = torch.randn(shape, generator=generator).to(dtype)
    buffer = torch.full((rows, heads, slots + 3, layout.width), math.nan, dtype=dtype)
    real = torch.randn((rows, heads, slots, layout.width), generator=generator)
    written = torch.arange(slots) < visible.amax(1, keepdim=True)
    buffer[:, :, :slots] = real.masked_fill(~written[:, None, :, None], math.nan)
    return q.to(visible.device), buffer.to(visible.device)[:, :, :slots]


def dense(
    q: Tensor, entries: Tensor, layout: EntryLayout, visible: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Softmax over the visible entries, query by query, in float64."""
    q, entries = q.double().cpu(), entries.double().cpu()
    rows, heads, queries, _ = q.shape
    counts = visible.cpu().expand(rows, queries)
    out = torch.zeros(rows, heads, queries, layout.value_width, dtype=torch.float64)
    lse = torch.full((rows, heads, queries), -math.inf, dtype=torch.float64)
    for row in range(rows):
        for query in range(queries):
            seen = entries[row, :, : int(counts[row, query])]  # (G, n, w)
            if seen.size(1) == 0:
                continue
            asks = q[row, :, query].unsqueeze(-1)
            scores = (layout.keys(seen) @ asks).squeeze(-1) * scale  # (G, n)
            lse[row, :, query] = scores.logsumexp(-1)
            weights = scores.softmax(-1).unsqueeze(1)
            out[row, :, query] = (weights @ layout.values(seen)).squeeze(1)
    return out, lse


def check_attention(
    result: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    """Output and log-sum-exp within the type's rounding; nothing where none is seen."""
    (out, lse), (exact, exact_lse) = result, expected
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert relative_error(out, exact) < TOLERANCE[dtype]
    blind = exact_lse.isinf()
    assert torch.equal(lse.cpu().isneginf(), blind)
    assert out.cpu()[blind].eq(0).all()
    seen = exact_lse[~blind]
    # Scores are sums in float32 of products of numbers that are exact in both.
    assert (lse.double().cpu()[~blind] - seen).abs().max() < 1e-5 * max(
        1.0, float(seen.abs().max())
    )


class NewToken:
    """One token a row, each row at a place of its own in a chunk: a launch tests all.

    Slots other than an open chunk's hold NaN, as memory that was never written may.
    """

    def __init__(
        self,
        stride: int,
        seen: Tensor,
        rank: int,
        rope_dim: int,
        dtype: torch.dtype,
        merges: bool,
    ) -> None:
        torch.manual_seed(stride)
        device, rows = seen.device, len(seen)
        self.seen, self.rank = seen, rank
        self.norm = nn.LayerNorm(rank)
        self.hypernet = HyperNetwork(rank) if merges else None
        nn.init.normal_(self.norm.weight, 1.0, 0.2)
        nn.init.normal_(self.norm.bias, 0.0, 0.2)
        for module in (self.norm, self.hypernet):
            if module is not None:
                module.to(device, dtype)
        self.raw = torch.randn(rows, rank + rope_dim).to(device, dtype)
        pair = torch.arange(0, rope_dim, 2, dtype=torch.float64)
        angles = seen.double().cpu().unsqueeze(1) * 10000 ** (-pair / rope_dim)
        self.angles = angles.float().to(device)
        chunk_encodings = chunk_encoding(seen // stride, rank).to(dtype)
        self.chunk_encodings = chunk_encodings if merges else None
        chunk = seen // stride
        base = (chunk - torch.arange(rows, device=device) % 3).clamp(min=0)
        self.slot, self.is_open = chunk - base, seen % stride > 0
        self.cache = torch.full((rows, 1, 5, rank + rope_dim), math.nan, dtype=dtype)
        self.cache = self.cache.to(device)
        self.rows = torch.arange(rows, device=device)
        open_entry = torch.randn(rows, rank + rope_dim).to(device, dtype)
        closed = ~self.is_open.unsqueeze(1)
        self.cache[self.rows, 0, self.slot] = open_entry.masked_fill(closed, math.nan)
        self.open_entry = open_entry.masked_fill(closed, 0.0).double().cpu()

    @property
    def placement(self) -> TokenPlacement:
        """As the decoder places tokens, one a row."""
        return TokenPlacement(
            start=self.seen,
            index=self.seen.unsqueeze(1),
            slot=self.slot.unsqueeze(1),
            angles=self.angles.unsqueeze(1),
            is_open=self.is_open.unsqueeze(1),
            chunk_encodings=None
            if self.chunk_encodings is None
            else self.chunk_encodings.unsqueeze(1),
        )

    def expected(self) -> Tensor:
        """Each row's entry ``(N, r + d_R)`` in float64, from the paper's formulas."""
        raw = self.raw.detach().double().cpu()
        latent, k_rope = raw[:, : self.rank], raw[:, self.rank :]
        norm = self.norm.to("cpu", torch.float64)
        latent = norm(latent).detach()
        if self.hypernet is not None:
            net = self.hypernet.to("cpu", torch.float64)
            code = self.chunk_encodings.double().cpu()
            score = (net.fc_c(code) * net.fc_p(latent)).sum(1, keepdim=True)
            latent = score.sigmoid().detach() * latent
        merged = latent + self.open_entry[:, : self.rank]
        pairs = torch.view_as_complex(k_rope.unflatten(1, (-1, 2)))
        angles = self.angles.double().cpu()
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((merged, torch.view_as_real(turned).flatten(1)), dim=1)

    def check(self, dtype: torch.dtype) -> None:
        """The slots as they should be, and no other number of the cache touched."""
        written = self.cache[self.rows, 0, self.slot]
        assert relative_error(written, self.expected()) < TOLERANCE[dtype]
        self.cache[self.rows, 0, self.slot] = math.nan
        assert self.cache.isnan().all()

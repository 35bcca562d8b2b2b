"""A new attention type needs no more than the contract: training and cache come free.

``SummedAttention`` is such a type. CONTRIBUTING.md refers to it as the example.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from espnet_mtla.attention import CausalAttention, EntryLayout, TokenPlacement
from espnet_mtla.attention.config import MultiheadConfig
from espnet_mtla.attention.merge import running_sums
from espnet_mtla.attention.naive import dense_attention, visible_matrix
from espnet_mtla.attention.training.attend import attend_latents
from test.support.attention_contract import (
    check_against_dense,
    check_cache_bytes,
    check_cached_equals_training,
    check_rows_alone_and_together,
)
from test.support.attention_types import HEADS, TYPES, WIDTH, make


class SummedAttention(CausalAttention):
    """Attention in which the sum of a chunk's tokens is key and value of all heads."""

    def __init__(self, embed_dim: int, num_heads: int, stride: int) -> None:
        config = MultiheadConfig(embed_dim, num_heads)
        d = config.head_dim
        layout = EntryLayout(1, d, d, value_start=0, value_width=d, stride=stride)
        super().__init__(config, layout, scale=d**-0.5)
        self.wq = nn.Linear(embed_dim, num_heads * d)
        self.wkv = nn.Linear(embed_dim, d)
        self.wo = nn.Linear(num_heads * d, embed_dim)

    def queries(self, x: Tensor, angles: Tensor) -> Tensor:
        del angles  # no positions
        return self.wq(x).unflatten(-1, (self.settings.num_heads, -1)).transpose(1, 2)

    def entries(
        self,
        x: Tensor,
        angles: Tensor,
        placement: TokenPlacement | None = None,
        open_entry: Tensor | None = None,
    ) -> Tensor:
        del angles
        start = None if placement is None else placement.start
        open_sum = None if open_entry is None else open_entry[:, 0]
        sums = running_sums(self.wkv(x), self.layout.stride, start, open_sum)
        return sums.unsqueeze(1)

    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        # Latents "expanded" to key and value of each head by a stack of identities.
        width, stride = entries.size(-1), self.layout.stride
        up = torch.eye(width, dtype=q.dtype, device=q.device).repeat(2 * q.size(1), 1)
        entries = entries.squeeze(1)
        return attend_latents(q, entries, up, query_index, stride, self.scale, dropout)

    def project_out(self, out: Tensor) -> Tensor:
        return self.wo(out.transpose(1, 2).flatten(2))


def dense_summed(module: SummedAttention, x: Tensor) -> Tensor:
    """The same for one row ``(T, D)``, with loops and a ``T x T`` matrix."""
    stride, kv = module.layout.stride, module.wkv(x)
    merged = []
    for token in range(len(x)):
        merged.append(kv[token // stride * stride : token + 1].sum(0))
    merged = torch.stack(merged)
    hidden = ~visible_matrix(len(x), stride)
    heads = []
    for q in module.wq(x).chunk(module.settings.num_heads, dim=-1):
        score = q @ merged.T / math.sqrt(q.size(-1))
        heads.append(score.masked_fill(hidden, -math.inf).softmax(-1) @ merged)
    return module.wo(torch.cat(heads, dim=-1))


def make_toy(stride: int) -> SummedAttention:
    torch.manual_seed(3)
    return SummedAttention(WIDTH, HEADS, stride).double().eval()


TOYS = {f"toy_s{stride}": stride for stride in (1, 2, 3)}
every_type = pytest.mark.parametrize("kind", [*TOYS, *TYPES])


def build(kind: str) -> CausalAttention:
    return make_toy(TOYS[kind]) if kind in TOYS else make(kind)


@every_type
def test_training_equals_the_dense_version(kind: str) -> None:
    check_against_dense(build(kind), dense_summed if kind in TOYS else dense_attention)


@every_type
def test_prefill_and_steps_equal_training(kind: str) -> None:
    check_cached_equals_training(build(kind))


@every_type
def test_a_row_alone_equals_the_row_in_a_batch(kind: str) -> None:
    check_rows_alone_and_together(build(kind))


@every_type
def test_bytes_in_use_equal_the_formula(kind: str) -> None:
    check_cache_bytes(build(kind))


@pytest.mark.parametrize("hook", ["queries", "entries", "attend", "project_out"])
def test_a_type_that_lacks_a_hook_cannot_be_built(hook: str) -> None:
    cls = type("Lacking", (SummedAttention,), {hook: getattr(CausalAttention, hook)})
    with pytest.raises(TypeError, match=f"abstract method '?{hook}'?"):
        cls(WIDTH, HEADS, 2)


def test_a_registered_type_needs_a_dense_version() -> None:
    class Config:
        """Settings of neither MHA nor MLA."""

    toy = make_toy(1)
    toy.settings = Config()
    with pytest.raises(TypeError, match="SummedAttention: write its dense version in"):
        dense_attention(toy, torch.zeros(1, WIDTH))


def test_a_type_without_a_fused_write_says_so() -> None:
    module = make_toy(2)
    _, cache = module.prefill(torch.zeros(1, 2, WIDTH).double(), torch.tensor([2]), 1)
    assert not module.has_fused_write(cache)
    placement = module.locate(cache.timeline, torch.zeros(1, 1, WIDTH).double())
    with pytest.raises(NotImplementedError, match="SummedAttention has no fused write"):
        module.fused_write(torch.zeros(1, 1, WIDTH).double(), cache, placement)


def test_the_old_name_of_token_placement_is_kept() -> None:
    from espnet_mtla.attention import NewTokens

    assert NewTokens is TokenPlacement

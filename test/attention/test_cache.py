"""The cache: bytes by the formula, forks apart, capacity kept, poison never seen."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention import EntryLayout, KVCache
from test.support.attention_types import TYPES, WIDTH, make


@settings(max_examples=60)
@given(
    stride=st.integers(1, 4),
    prompts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    tokens=st.integers(0, 9),
    beam=st.integers(1, 3),
    share=st.booleans(),
)
def test_used_bytes_are_what_the_formula_says(
    stride: int, prompts: list[int], tokens: int, beam: int, share: bool
) -> None:
    layout = EntryLayout(2, 5, 3, 3, 2, stride)
    entries = torch.zeros(len(prompts), 2, max(prompts), 5)
    cache = KVCache.from_prompt(layout, entries, torch.tensor(prompts), tokens)
    cache.fork(beam, share)
    for _ in range(tokens):
        cache.timeline.reserve(1)
        cache.timeline.advance(1)
    formula = sum(layout.cache_bytes(p, tokens, beam, share, 4) for p in prompts)
    assert cache.used_nbytes == formula
    assert cache.nbytes >= formula


@pytest.mark.parametrize("kind", TYPES)
def test_a_merge_into_an_open_chunk_never_reaches_a_sibling(kind: str) -> None:
    """Fork, write different tokens, reorder, write again: each beam as if alone."""
    module = make(kind)
    prompt = torch.randn(2, 7, WIDTH, dtype=torch.float64)
    lengths = torch.tensor([7, 5])
    _, cache = module.prefill(prompt, lengths, capacity=8, attend_prompt=False)
    cache.fork(3)
    history: list[list[torch.Tensor]] = [[] for _ in range(6)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        new = torch.randn(6, 1, WIDTH, dtype=torch.float64, generator=generator)
        out = module.extend(new, cache)
        for row in range(6):
            history[row].append(new[row])
            alone = torch.cat([prompt[row // 3, : lengths[row // 3]], *history[row]])
            expected = module.attend_all(alone.unsqueeze(0))[:, -1:]
            torch.testing.assert_close(out[row : row + 1], expected, rtol=0, atol=1e-10)
        picks = torch.randint(0, 3, (2, 3), generator=generator)
        rows = (picks + torch.tensor([[0], [3]])).flatten()
        cache.reorder(rows)
        history = [list(history[row]) for row in rows.tolist()]


def test_more_tokens_than_the_capacity_are_refused_with_both_numbers() -> None:
    module = make("mtla_s2")
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    _, cache = module.prefill(x, torch.tensor([4]), capacity=2)
    module.extend(x[:, :2], cache)
    with pytest.raises(IndexError, match=r"room for 2 tokens .* 3 are needed"):
        module.extend(x[:, :1], cache)


@pytest.mark.parametrize("kind", ["mha", "mla", "mtla_s2", "mtla_s3"])
def test_slots_that_no_row_has_reached_are_never_read(kind: str) -> None:
    module = make(kind)
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    _, cache = module.prefill(x[:, :5], torch.tensor([5, 5]), capacity=40)
    cache.suffix[:, :, cache.layout.slots(cache.layout.stride - 1 + 7) :] = float("nan")
    for t in range(5, 12):
        assert module.extend(x[:, t : t + 1], cache).isfinite().all()

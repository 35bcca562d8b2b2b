"""The planner's formula is what caches are allocated with, byte for byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention import CacheOptions
from espnet_mtla.decoder.memory import Load, cache_bytes, decode_bytes, most
from test.support.attention_types import WIDTH
from test.support.tiny_decoder import KINDS, make

ALL_OPTIONS = [
    CacheOptions(),
    CacheOptions(dtype="int8"),
    CacheOptions(dtype="fp8"),
    CacheOptions(prompt="heads"),
]


@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    batch=st.integers(1, 3),
    beam=st.integers(1, 3),
    frames=st.integers(1, 9),
    tokens=st.integers(1, 7),
    share=st.booleans(),
    options=st.sampled_from(ALL_OPTIONS),
)
def test_caches_take_what_the_formula_says(
    kind: str,
    batch: int,
    beam: int,
    frames: int,
    tokens: int,
    share: bool,
    options: CacheOptions,
) -> None:
    decoder = make(kind, "fixed").float()
    load = Load(batch, beam, frames, tokens, share, 4, options)
    with torch.no_grad():
        state = decoder.prefill(
            torch.randn(batch, frames, WIDTH),
            torch.full((batch,), frames),
            max_tokens=tokens + 1,
            beam=beam,
            share_prompt=share,
            options=options,
        )
    assert state.nbytes == cache_bytes(decoder, load) < decode_bytes(decoder, load)


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 8, 1000])
def test_the_largest_that_fits(limit: int) -> None:
    assert most(lambda number: number <= limit) == limit

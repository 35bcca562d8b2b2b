"""The PyTorch back-end by hand, the registry, and a cache in 8 bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention import CacheOptions, EntryLayout
from espnet_mtla.attention.decoding.backend import choose_backend
from espnet_mtla.attention.decoding.backend import torch as torch_backend
from espnet_mtla.attention.decoding.backend.torch import BACKEND
from espnet_mtla.attention.decoding.quantise import quantise, restore
from espnet_mtla.errors import UserError
from test.support.attention_types import TYPES, WIDTH, make

LATENT = EntryLayout(1, 10, 10, 0, 8)
HEADS = EntryLayout(2, 9, 5, 5, 4)
SAME = {"rtol": 0.0, "atol": 1e-12}


@pytest.mark.parametrize("layout", [LATENT, HEADS], ids=["latent", "heads"])
@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    queries=st.sampled_from([1, 3, 20]),
    each=st.booleans(),
    singly=st.booleans(),
)
def test_attention_by_hand_with_poisoned_slots(
    layout: EntryLayout, counts: list[int], queries: int, each: bool, singly: bool
) -> None:
    """``each``: queries of a row see different numbers of entries."""
    visible = torch.tensor(counts).unsqueeze(1)
    if each:
        visible = (visible - torch.arange(queries)).clamp(min=0)
    rows, poison = len(counts), float("nan")
    q = torch.randn(rows, layout.heads, queries, layout.key_width).double()
    entries = torch.randn(rows, layout.heads, 7, layout.width).double()
    for row, count in enumerate(counts):
        entries[row, :, count:] = poison
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_backend, "ROW_OPERATIONS", -1 if singly else math.inf)
        out, lse = BACKEND.attend(q, entries, layout, visible, 0.3)
    shape = (rows, layout.heads, queries)
    assert out.shape == (*shape, layout.value_width) and lse.shape == shape
    for row in range(rows):
        for m in range(queries):
            seen = int(visible[row, m if each else 0])
            part = entries[row, :, :seen]
            scores = (layout.keys(part) @ q[row, :, m, :, None]).squeeze(-1) * 0.3
            weights = scores.softmax(-1).unsqueeze(-1)
            expected = (weights * layout.values(part)).sum(1)
            torch.testing.assert_close(out[row, :, m], expected, **SAME)
            torch.testing.assert_close(lse[row, :, m], scores.logsumexp(-1), **SAME)


def test_two_parts_merged_are_the_whole() -> None:
    q = torch.randn(2, 1, 3, 10).double()
    entries = torch.randn(2, 1, 9, 10).double()
    count = torch.tensor([[9], [9]])
    whole, _ = BACKEND.attend(q, entries, LATENT, count, 0.3)
    for cut in (0, 4, 9):
        a = BACKEND.attend(q, entries[:, :, :cut], LATENT, count * 0 + cut, 0.3)
        b = BACKEND.attend(q, entries[:, :, cut:], LATENT, count - cut, 0.3)
        torch.testing.assert_close(BACKEND.merge(*a, *b), whole, **SAME)


def test_a_back_end_that_does_not_fit_is_named_with_the_reason() -> None:
    cpu = torch.device("cpu")
    assert choose_backend("auto", LATENT, torch.float32, cpu).name == "torch"
    with pytest.raises(UserError, match="flash_attn: "):
        choose_backend("flash_attn", LATENT, torch.float32, cpu)
    with pytest.raises(UserError, match="backend: 'cuda' given, one of auto, "):
        choose_backend("cuda", LATENT, torch.float32, cpu)


@pytest.mark.parametrize(
    ("kind", "bound"), [("int8", 0.5 / 127), ("fp8", 1 / 16)], ids=["int8", "fp8"]
)
@settings(max_examples=30)
@given(size=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_eight_bits_keep_numbers_within_their_bound(
    kind: str, bound: float, size: float, seed: int
) -> None:
    """int8: a share of the entry's largest number; float8: of each number."""
    entries = size * torch.randn(3, 32, generator=torch.Generator().manual_seed(seed))
    error = (restore(*quantise(entries, kind), kind, torch.float32) - entries).abs()
    largest = entries.abs().amax(-1, keepdim=True)
    allowed = bound * (largest if kind == "int8" else entries.abs())
    least = largest * 2**-10 / 448  # half a step of float8's smallest numbers
    assert (error <= 1.01 * torch.maximum(allowed, least)).all()


def test_an_entry_of_zeros_stays_zero() -> None:
    for kind in ("int8", "fp8"):
        numbers, scale = quantise(torch.zeros(2, 4), kind)
        assert not restore(numbers, scale, kind, torch.float32).any()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_a_cache_in_eight_bits_is_near_the_exact_one(kind: str, dtype: str) -> None:
    """Through open chunks, forks and reorders; errors do not grow with the steps."""
    module, beam = make(kind, torch.float32), 3
    x = torch.randn(2, 9, WIDTH)
    lengths, order = torch.tensor([9, 6]), torch.tensor([2, 0, 0, 3, 5, 4])
    caches = [
        module.prefill(x, lengths, 12, False, CacheOptions(dtype=d))[1]
        for d in (None, dtype)
    ]
    errors = []
    for cache in caches:
        cache.fork(beam)
    for _ in range(12):
        new = torch.randn(6, 1, WIDTH)
        with torch.no_grad():
            exact, rough = (module.extend(new, cache) for cache in caches)
        errors.append(float((exact - rough).norm() / exact.norm()))
        for cache in caches:
            cache.reorder(order)
    assert 0 < max(errors) < {"int8": 0.02, "fp8": 0.08}[dtype]
    formula = sum(
        module.cache_bytes(n, 12, beam, True, 4, caches[1].options) for n in (9, 6)
    )
    assert caches[1].used_nbytes == formula


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("options", [CacheOptions(prompt="heads"), CacheOptions()])
def test_prompts_projected_up_give_the_same(kind: str, options: CacheOptions) -> None:
    """Expand latents at prefill, or per call of many queries."""
    module = make(kind)
    x = torch.randn(2, 16, WIDTH, dtype=torch.float64)
    lengths = torch.tensor([7, 4])
    latent = CacheOptions(expand_from=10**6)
    _, plain = module.prefill(x[:, :7], lengths, 9, False, latent)
    at_once = CacheOptions(prompt=options.prompt, expand_from=1)
    _, cache = module.prefill(x[:, :7], lengths, 9, False, at_once)
    for part in (x[:, 7:8], x[:, 8:12], x[:, 12:13]):
        expected = module.extend(part, plain)
        torch.testing.assert_close(
            module.extend(part, cache), expected, rtol=0, atol=1e-10
        )
    formula = sum(module.cache_bytes(n, 6, options=at_once, itemsize=8) for n in (7, 4))
    assert cache.used_nbytes == formula


@pytest.mark.parametrize(
    ("given", "message"),
    [({"dtype": "int4"}, "cache_dtype: 'int4'"), ({"prompt": "x"}, "prompt_cache: ")],
)
def test_a_bad_cache_option_is_named(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CacheOptions(**given)

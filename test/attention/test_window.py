"""The options ``raw_window`` and ``phase``: rule, dense twin, decoding and cache.

The tests of all types run with these options too; here are their edges.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espnet_mtla.attention import (
    CacheOptions,
    MultiheadTemporalLatentAttention,
    QueryTokens,
)
from espnet_mtla.attention.naive import dense_attention, windowed_matrix
from espnet_mtla.attention.training import attend, band, blocked
from espnet_mtla.attention.training.kernel_choice import training_kernel
from espnet_mtla.attention.training.window_operators import windowed_attention
from espnet_mtla.errors import UserError
from test.support.attention_types import HEADS, LATENT, WIDTH

EXACT = {"rtol": 0.0, "atol": 1e-10}
DENSE = {"rtol": 1e-5, "atol": 1e-6}  # the chunk encoding is float32 in any case
strides = st.integers(1, 4)
windows = st.integers(0, 9)


def module_of(
    stride: int, window: int, phase: bool, layer: int = 1
) -> MultiheadTemporalLatentAttention:
    torch.manual_seed(7)
    chunks = {"down_rate": stride, "raw_window": window, "phase": phase}
    module = MultiheadTemporalLatentAttention(
        WIDTH, HEADS, **LATENT, **chunks, layer=layer
    )
    return module.double().eval()


def random_rows(rows: int, tokens: int) -> Tensor:
    return torch.randn(rows, tokens, WIDTH, dtype=torch.float64)


# The rule ----------------------------------------------------------------------------


def seen_by(module: MultiheadTemporalLatentAttention, tokens: int) -> Tensor:
    """For the last query: the largest influence of each token, (T,)."""
    x = random_rows(1, tokens).requires_grad_()
    (influence,) = torch.autograd.grad(module.attend_all(x)[0, -1].sum(), x)
    return influence[0].abs().amax(-1)


def test_the_rule_by_hand() -> None:
    """Stride 3, window 2: at token 7 chunk {0, 1, 2} is merged, {3, 4, 5} too."""
    merged, raw = windowed_matrix(9, 3, offset=0, window=2)[7].int().split(9)
    assert merged.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0]
    assert raw.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0]
    # At token 6 chunk {3, 4, 5} ended but one token ago: it is seen token by token.
    merged, raw = windowed_matrix(9, 3, offset=0, window=2)[6].int().split(9)
    assert merged.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert raw.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_shifted_chunks_by_hand() -> None:
    """Stride 4 in an odd layer: chunks {0, 1}, {2, 3, 4, 5}, ..."""
    module = module_of(4, 0, phase=True)
    x = random_rows(1, 7)
    _, cache = module.prefill(x, torch.tensor([7]), capacity=1)
    assert cache.timeline.prompt_chunks.tolist() == [2]
    assert cache.layout.slots(7) == 3
    even = module_of(4, 0, phase=True, layer=0)
    torch.testing.assert_close(even.attend_all(x), module_of(4, 0, False).attend_all(x))
    assert not torch.allclose(even.attend_all(x), module.attend_all(x))


@settings(max_examples=60)
@given(strides, st.integers(1, 9), st.booleans(), st.integers(1, 30))
def test_no_token_is_seen_twice_and_none_is_missed(
    stride: int, window: int, phase: bool, tokens: int
) -> None:
    offset = module_of(stride, window, phase).layout.offset
    for i, row in enumerate(windowed_matrix(tokens, stride, offset, window)):
        merged, raw = row.split(tokens)
        seen = raw.int()
        for last in merged.nonzero().flatten().tolist():
            first = max(last - stride + 1, 0)
            seen[first : last + 1] += 1
        assert seen.tolist() == [1] * (i + 1) + [0] * (tokens - i - 1)
        assert min(window, i + 1) <= int(raw.sum()) <= window + stride - 1
    assert (seen_by(module_of(stride, window, phase), tokens) > 0).all()


# Training against the twin -----------------------------------------------------------


@settings(max_examples=60)
@given(
    stride=strides,
    window=windows,
    phase=st.booleans(),
    tokens=st.integers(1, 40),
    kernel=st.sampled_from(["auto", "cpu_flash", "blocked"]),
)
def test_training_equals_the_dense_twin(
    stride: int, window: int, phase: bool, tokens: int, kernel: str
) -> None:
    module, x = module_of(stride, window, phase), random_rows(1, tokens)
    x.requires_grad_()
    leaves = [x, *module.parameters()]
    with training_kernel(kernel):
        fast = module.attend_all(x)[0]
    dense = dense_attention(module, x[0])
    torch.testing.assert_close(fast, dense, **DENSE)
    direction = torch.randn_like(dense)
    options = {"allow_unused": True, "materialize_grads": True}
    ours = torch.autograd.grad((fast * direction).sum(), leaves, **options)
    twins = torch.autograd.grad((dense * direction).sum(), leaves, **options)
    torch.testing.assert_close(ours, twins, **DENSE)


@pytest.mark.parametrize("kernel", ["auto", "blocked"])
@settings(max_examples=20)
@given(data=st.data(), stride=strides, window=st.integers(1, 9), phase=st.booleans())
def test_queries_in_any_order(
    kernel: str, data: st.DataObject, stride: int, window: int, phase: bool
) -> None:
    module, x = module_of(stride, window, phase), random_rows(2, 20)
    x.requires_grad_()
    pick = st.lists(st.integers(0, 19), min_size=5, max_size=5)
    index = torch.tensor([data.draw(pick), data.draw(pick)])
    rows = torch.arange(2).unsqueeze(1)
    with training_kernel(kernel):
        some = module.attend_all(x, QueryTokens(x[rows, index], index))
    every = module.attend_all(x)[rows, index]
    torch.testing.assert_close(some, every, **EXACT)
    direction = torch.randn_like(some)
    ours, all_of = (
        torch.autograd.grad((out * direction).sum(), x)[0] for out in (some, every)
    )
    torch.testing.assert_close(ours, all_of, **EXACT)


@pytest.mark.parametrize("kernel", ["cpu_flash", "blocked"])
def test_many_blocks_of_queries(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several blocks, in groups of one: each token gets all its gradients."""
    monkeypatch.setattr(band, "QUERIES", 4)
    monkeypatch.setitem(blocked.SCORES, "cpu", 1)
    module, x = module_of(3, 5, phase=True), random_rows(2, 29).requires_grad_()
    index = torch.arange(10, 27)[None]
    with training_kernel(kernel):
        whole = module.attend_all(x)
    with training_kernel("blocked"):
        part = module.attend_all(x, QueryTokens(x[:, 10:27], index))
    for row in range(2):
        dense = dense_attention(module, x[row])
        torch.testing.assert_close(whole[row], dense, **DENSE)
        torch.testing.assert_close(part[row], dense[10:27], **DENSE)
        leaves = [x, *module.parameters()]
        for ours, twin in ((whole[row], dense), (part[row], dense[10:27])):
            direction = torch.randn_like(twin)
            pair = [
                torch.autograd.grad((y * direction).sum(), leaves, retain_graph=True)
                for y in (ours, twin)
            ]
            torch.testing.assert_close(*pair, **DENSE)


def operands(kernel: str, dropout: float) -> tuple:
    heads, rope, rank, value, tokens, stride, offset, window = 2, 4, 6, 5, 9, 2, 1, 3

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    q, raw = leaf(1, tokens, heads, 3 + rope), leaf(1, tokens, rank + rope)
    finished = leaf(1, (tokens + offset) // stride, rank + rope)
    weight = leaf(heads * (3 + value), rank)
    index, seed = torch.arange(tokens)[None], torch.tensor([11])
    given = (q, finished, raw, weight, index, seed)
    return *given, kernel, stride, False, 0.3, dropout, offset, window


@pytest.mark.parametrize(
    ("kernel", "dropout"), [("cpu_flash", 0.0), ("blocked", 0.0), ("blocked", 0.4)]
)
def test_gradients_are_exact(kernel: str, dropout: float) -> None:
    """With dropout too: both directions draw the same numbers from the seed."""
    given = operands(kernel, dropout)

    def output(*four: Tensor) -> Tensor:
        return windowed_attention(*four, *given[4:])[0]

    assert torch.autograd.gradcheck(output, given[:4], fast_mode=True)


@pytest.mark.parametrize("kernel", ["cpu_flash", "blocked"])
def test_the_operator_keeps_pytorchs_rules(kernel: str) -> None:
    """Schema, shapes in tracing, gradients under AOT autograd."""
    torch.library.opcheck(windowed_attention, operands(kernel, 0.0))


def test_flex_attention_has_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "choose_kernel", lambda *_: "flex")
    with pytest.raises(UserError, match="flex has no raw_window; use auto"):
        module_of(2, 3, False).attend_all(random_rows(1, 4))


# Decoding ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    stride=strides,
    window=windows,
    phase=st.booleans(),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    beam=st.integers(1, 3),
    share=st.booleans(),
    pieces=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    prompt_form=st.sampled_from(["latent", "heads"]),
    seed=st.integers(0, 9),
)
def test_forks_pieces_and_reordering(
    stride: int,
    window: int,
    phase: bool,
    lengths: list[int],
    beam: int,
    share: bool,
    pieces: list[int],
    prompt_form: str,
    seed: int,
) -> None:
    """Each hypothesis gives what its whole row gives in training."""
    module, generator = module_of(stride, window, phase), torch.Generator()
    generator.manual_seed(seed)
    prompt = random_rows(len(lengths), max(lengths))
    prompt[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = torch.nan
    _, cache = module.prefill(
        prompt,
        torch.tensor(lengths),
        sum(pieces),
        attend_prompt=False,
        options=CacheOptions(prompt=prompt_form),
    )
    cache.fork(beam, share)
    rows = [x[:n] for x, n in zip(prompt, lengths, strict=True) for _ in range(beam)]
    for size in pieces:
        new = random_rows(len(rows), size)
        out = module.extend(new, cache)
        rows = [torch.cat((row, x)) for row, x in zip(rows, new, strict=True)]
        for row, ours in zip(rows, out, strict=True):
            index = torch.arange(len(row) - size, len(row))[None]
            last = QueryTokens(row[None, -size:], index)
            torch.testing.assert_close(
                ours, module.attend_all(row[None], last)[0], **EXACT
            )
        parents = torch.randint(0, beam, (len(lengths), beam), generator=generator)
        order = (parents + torch.arange(len(lengths))[:, None] * beam).flatten()
        cache.reorder(order)
        rows = [rows[i] for i in order.tolist()]


@settings(max_examples=25, deadline=None)
@given(
    stride=strides,
    window=windows,
    phase=st.booleans(),
    calls=st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), max_size=6),
)
def test_rows_of_uneven_lengths_in_later_calls(
    stride: int, window: int, phase: bool, calls: list[list[int]]
) -> None:
    """A row that gets fewer tokens than its neighbour, or none, goes on unchanged."""
    module, state = module_of(stride, window, phase), {}
    rows = random_rows(2, 3)
    module(rows, rows, incremental_state=state)
    rows = list(rows)
    for counts in [*calls, [1, 1]]:
        most = max(counts)
        if most == 0:
            continue
        new = random_rows(2, most)
        pad = torch.arange(most) >= torch.tensor(counts)[:, None]
        new = new.masked_fill(pad.unsqueeze(-1), torch.nan)
        out = module(
            new.nan_to_num(), new, key_padding_mask=pad, incremental_state=state
        )
        parts = zip(rows, new, counts, strict=True)
        rows = [torch.cat((row, x[:count])) for row, x, count in parts]
        for row, ours, count in zip(rows, out, counts, strict=True):
            whole = module.attend_all(row[None])[0]
            torch.testing.assert_close(ours[:count], whole[len(row) - count :], **EXACT)

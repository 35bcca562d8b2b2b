"""The reference's call signature: padding, forks, several tokens, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention import MultiheadTemporalLatentAttention
from espnet_mtla.errors import UserError
from test.support.attention_types import HEADS, LATENT, TYPES, WIDTH, make, stride_of

SAME = {"rtol": 0.0, "atol": 1e-10}
kinds = pytest.mark.parametrize("kind", TYPES)


def padded(lengths: list[int], left: list[int], width: int) -> tuple:
    """Return rows of noise with NaN as padding, and the mask, true at padding."""
    total = max(a + b for a, b in zip(left, lengths, strict=True))
    x = torch.full((len(lengths), total, width), float("nan"), dtype=torch.float64)
    pad = torch.ones(len(lengths), total, dtype=torch.bool)
    for row, (start, length) in enumerate(zip(left, lengths, strict=True)):
        x[row, start : start + length] = torch.randn(length, width, dtype=x.dtype)
        pad[row, start : start + length] = False
    return x, pad


@kinds
@settings(max_examples=12)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    shifts=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_a_padded_row_gives_what_it_gives_alone(
    kind: str, lengths: list[int], shifts: list[int]
) -> None:
    module, left = make(kind), shifts[: len(lengths)]
    x, pad = padded(lengths, left, WIDTH)
    out = module(query=x.nan_to_num(), key=x, value=x, key_padding_mask=pad)
    assert out.isfinite().all()
    for row, (start, length) in enumerate(zip(left, lengths, strict=True)):
        alone = x[row : row + 1, start : start + length]
        torch.testing.assert_close(
            out[row, start : start + length], module(alone, alone, alone)[0], **SAME
        )


@kinds
def test_left_padded_rows_decode_as_they_do_alone(kind: str) -> None:
    """One row may open a chunk while its neighbour merges."""
    module, lengths = make(kind), [7, 4, 1]
    x, pad = padded(lengths, [0, 3, 6], WIDTH)
    steps = torch.randn(3, 6, WIDTH, dtype=x.dtype)
    state: dict = {}
    outs = [module(x[:, -1:], x, x, key_padding_mask=pad, incremental_state=state)]
    outs += [
        module(new, new, new, incremental_state=state) for new in steps.split(1, dim=1)
    ]
    for row, length in enumerate(lengths):
        alone = torch.cat((x[row : row + 1, -length:], steps[row : row + 1]), dim=1)
        whole = module(alone, alone, alone)[:, length - 1 :]
        torch.testing.assert_close(torch.cat(outs, 1)[row], whole[0], **SAME)


@kinds
def test_later_calls_take_several_tokens_with_padding(kind: str) -> None:
    module = make(kind)
    x = torch.randn(2, 12, WIDTH, dtype=torch.float64)
    state: dict = {}
    module(x[:, :5], x[:, :5], incremental_state=state)
    # Row 1 has but two of the four tokens; in the next call it goes on from there.
    pad = torch.zeros(2, 4, dtype=torch.bool)
    pad[1, 2:] = True
    piece = x[:, 5:9].masked_fill(pad.unsqueeze(-1), float("nan"))
    out = module(
        piece.nan_to_num(), piece, key_padding_mask=pad, incremental_state=state
    )
    last = torch.stack((x[0, 9], x[1, 7])).unsqueeze(1)
    end = module(last, last, incremental_state=state)
    whole = module(x, x)
    torch.testing.assert_close(out[0], whole[0, 5:9], **SAME)
    torch.testing.assert_close(out[1, :2], whole[1, 5:7], **SAME)
    torch.testing.assert_close(
        end[:, 0], torch.stack((whole[0, 9], whole[1, 7])), **SAME
    )


@kinds
def test_a_copied_dictionary_is_a_fork(kind: str) -> None:
    module = make(kind)
    x, other = torch.randn(2, 1, 10, WIDTH, dtype=torch.float64)
    state: dict = {}
    module(x[:, :5], x[:, :5], incremental_state=state)
    fork = dict(state)
    for t in range(5, 10):
        module(x[:, t : t + 1], x[:, t : t + 1], incremental_state=state)
    branch = torch.cat((x[:, :5], other[:, 5:]), dim=1)
    for t in range(5, 10):
        new = branch[:, t : t + 1]
        out = module(new, new, incremental_state=fork)
        expected = module(branch[:, : t + 1], branch[:, : t + 1])[:, -1:]
        torch.testing.assert_close(out, expected, **SAME)


@pytest.mark.parametrize("kind", ["mha", "mla", "mtla_s2", "mtla_s3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_counts_beyond_256_tokens(kind: str, dtype: torch.dtype) -> None:
    """Positions must be integers: bfloat16 counts to 256, float16 to 2048."""
    module, tokens = make(kind, torch.float32), 300
    x = torch.randn(1, tokens, WIDTH)
    expected = module(x, x)
    half, state, outs = make(kind, dtype), {}, []
    prompt = x[:, :250].to(dtype)
    outs.append(half(prompt, prompt, incremental_state=state))
    for t in range(250, tokens):
        new = x[:, t : t + 1].to(dtype)
        outs.append(half(new, new, incremental_state=state))
    assert next(iter(state.values())).num_tokens.item() == tokens
    error = (torch.cat(outs, 1).float() - expected).abs()
    assert error[:, 256:].mean() < 2 * error[:, :256].mean() + 1e-3
    assert error.max() < 0.05


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_cross_attention_ignores_padding_and_keeps_the_last_frames(stride: int) -> None:
    torch.manual_seed(1)
    conf = {**LATENT, "down_rate": stride, "cross_att": True}
    module = MultiheadTemporalLatentAttention(WIDTH, HEADS, **conf).double().eval()
    lengths = [7, 4, 1]
    memory, pad = padded(lengths, [0, 0, 0], WIDTH)
    query = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    out = module(query, memory, key_padding_mask=pad)
    for row, length in enumerate(lengths):
        alone = module(query[row : row + 1], memory[row : row + 1, :length])
        torch.testing.assert_close(out[row : row + 1], alone, **SAME)
    moved = memory[:1].clone()
    moved[:, -1] += 1.0
    assert not torch.allclose(module(query[:1], moved), out[:1])
    state: dict = {}
    parts = [
        module(q, memory, key_padding_mask=pad, incremental_state=state)
        for q in query.split(1, dim=1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), out, **SAME)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"need_weights": True}, "need_weights"),
        ({"use_flashattn_infer": True}, "use_flashattn_infer"),
        ({"self_attn_mask": torch.ones(4, 4).tril(-1)}, "self_attn_mask"),
        ({"key_padding_mask": torch.zeros(1, 3)}, "key_padding_mask"),
        ({"query": torch.zeros(2, 5, WIDTH)}, "query"),
        ({"query": torch.zeros(WIDTH)}, "query"),
        (
            {"key": torch.zeros(2, 4, WIDTH + 1)},
            r"key \(2, 4, 33\): .*, 32\) is needed",
        ),
        ({"query": torch.zeros(2, 0, WIDTH)}, "query, key: no token given"),
        ({"query": torch.zeros(2, 4, WIDTH).long()}, r"query: torch\.int64 given"),
        ({"key": torch.zeros(2, 4, WIDTH).double()}, r"key: torch\.float64 given"),
        ({"key_padding_mask": torch.zeros(2, 5)}, r"mask \(2, 5\): \(2, 4\) is needed"),
        ({"key_padding_mask": torch.zeros(4)}, r"key_padding_mask \(4,\)"),
        ({"self_attn_mask": torch.zeros(4, 5)}, r"self_attn_mask \(4, 5\)"),
        ({"position": torch.arange(4)}, r"position \(4,\): \(1, 4\) or \(2, 4\)"),
        ({"position": torch.zeros(3, 4)}, r"position \(3, 4\)"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(given: dict, named: str) -> None:
    x = torch.zeros(2, 4, WIDTH)
    with pytest.raises(UserError, match=named):
        make("mtla_s2", torch.float32)(**{"query": x, "key": x, "value": x, **given})


def test_masks_of_later_calls_are_of_the_new_tokens_or_of_all() -> None:
    module, state = make("mtla_s2", torch.float32), {}
    x, none = torch.zeros(2, 4, WIDTH), torch.zeros(2, 7)
    module(x, x, incremental_state=state)
    with pytest.raises(UserError, match=r"\(2, 7\): \(2, 4\) or \(2, 8\) is needed"):
        module(x, x, key_padding_mask=none, incremental_state=state)


def test_cross_attention_names_what_does_not_fit() -> None:
    conf = {**LATENT, "down_rate": 2, "cross_att": True}
    module = MultiheadTemporalLatentAttention(WIDTH, HEADS, **conf)
    x, state = torch.zeros(2, 4, WIDTH), {}
    with pytest.raises(UserError, match=r"key_padding_mask \(2, 3\)"):
        module(x, x, key_padding_mask=torch.zeros(2, 3))
    with pytest.raises(UserError, match=r"key \(2, 4, 9\): \(batch, tokens, 32\)"):
        module(x, x[..., :9])
    module(x, x, incremental_state=state)
    with pytest.raises(UserError, match="query: 1 rows given, the incremental state"):
        module(x[:1], x, incremental_state=state)


def test_a_causal_mask_and_positions_of_ones_own_are_taken() -> None:
    module = make("mtla_s2")
    x = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    mask = torch.full((6, 6), float("-inf")).triu(1)
    torch.testing.assert_close(module(x, x, self_attn_mask=mask), module(x, x))
    position = torch.arange(6).expand(2, 6)
    torch.testing.assert_close(module(x, x, position=position), module(x, x))
    assert not torch.allclose(module(x, x, position=position * 2.5), module(x, x))


def test_stride_is_where_chunks_end() -> None:
    """A token reaches later queries through its chunk's merged latent alone."""
    for kind in ("mtla_s2", "mtla_s3", "mtla_s4"):
        module, s = make(kind), stride_of(kind)
        x = torch.randn(1, 3 * s, WIDTH, dtype=torch.float64)
        state: dict = {}
        module(x, x, incremental_state=state)
        assert next(iter(state.values())).used_nbytes == 3 * (16 + 4) * 8

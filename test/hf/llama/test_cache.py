"""The cache: counts of tokens and entries, bytes by the formula, exact cropping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import Cache

from espnet_mtla.errors import UserError
from espnet_mtla.hf import TemporalLatentCache
from espnet_mtla.hf.llama.cache import entry_layout
from test.support.tiny_llama import SIZES, cache_of, left_padded, tiny, tokens


def run(model, batch, cache, mask=None) -> torch.Tensor:
    with torch.no_grad():
        return model(batch, cache=cache, attention_mask=mask).logits


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("length", range(1, 14))
def test_tokens_are_counted_and_entries_are_stored(stride: int, length: int) -> None:
    model = tiny(stride)
    cache = TemporalLatentCache(model.config)
    assert isinstance(cache, Cache) and cache.get_seq_length() == 0
    run(model, tokens(3, length), cache)
    entries, width = -(-length // stride), SIZES["kv_lora_rank"] + 4
    assert all(cache.get_seq_length(layer) == length for layer in range(2))
    assert cache.layers[0].keys.shape == (3, 1, entries, width)
    assert cache.layers[0].values.shape == (3, 1, entries, SIZES["kv_lora_rank"])
    assert cache.layers[0].get_mask_sizes(1) == (-(-(length + 1) // stride), 0)
    layers, itemsize = 2, 8
    assert cache.used_nbytes == layers * 3 * entries * width * itemsize
    formula = entry_layout(model.config).cache_bytes(0, length, 3, False, itemsize)
    assert cache.used_nbytes == layers * formula


def test_a_static_cache_is_allocated_by_the_formula() -> None:
    model = tiny(3)
    cache = TemporalLatentCache(model.config, 30, static=True)
    assert cache.is_compileable and cache.layers[0].get_max_length() == 30
    run(model, tokens(2, 5), cache)
    slack = 1  # a chunk more than 30 / 3, which a prompt may leave open
    assert cache.nbytes == 2 * 2 * (10 + slack) * 20 * 8
    with pytest.raises(IndexError):
        run(model, tokens(2, 29), cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    same(run(model, tokens(2, 5), cache), run(model, tokens(2, 5), None))


def test_slots_that_hold_nothing_are_never_read() -> None:
    model = tiny(2)
    batch, mask = left_padded([tokens(1, n, n)[0] for n in (9, 4)])
    cache = TemporalLatentCache(model.config, 40)
    run(model, batch[:, :8], cache, mask[:, :8])
    for layer in cache.layers:
        for row, seen in enumerate(cache.timeline.num_tokens.tolist()):
            layer.rows.suffix[row, :, -(-seen // 2) :] = float("nan")
    assert run(model, batch[:, 8:], cache, mask).isfinite().all()


@settings(max_examples=15)
@given(stride=st.integers(1, 4), window=st.sampled_from([0, 1, 5]), data=st.data())
def test_going_back_leaves_no_trace(
    stride: int, window: int, data: st.DataObject
) -> None:
    """Random pieces forward and back, against a cache that never went too far."""
    model = tiny(stride, raw_window=window)
    rows = [tokens(1, n, n)[0] for n in (5, 3)]
    batch, mask = left_padded(rows)
    cache = TemporalLatentCache(model.config)
    cache.activate_past_recording()
    run(model, batch, cache, mask)
    kept = torch.zeros(2, 0, dtype=torch.long)
    for round_ in range(3):
        new = tokens(2, data.draw(st.integers(1, 6)), 40 + round_)
        full = torch.cat((mask, torch.ones(2, kept.size(1) + new.size(1))), 1)
        run(model, new, cache, full)
        back = data.draw(st.integers(0, new.size(1)))
        if back:
            cache.crop(-back)
        kept = torch.cat((kept, new[:, : new.size(1) - back]), 1)
        assert cache.get_seq_length() == 5 + kept.size(1)
    last = tokens(2, 1, 99)
    got = run(model, last, cache)
    for index, row in enumerate(rows):
        whole = torch.cat((row, kept[index], last[index]))[None]
        same(got[index, -1], model(whole, use_cache=False).logits[0, -1])


def test_going_back_behind_the_raw_window_is_refused() -> None:
    """The tokens before it are merged; their raw entries have been overwritten."""
    model = tiny(2, raw_window=3)
    cache = TemporalLatentCache(model.config)
    batch = tokens(1, 70)
    for piece in batch.split(1, dim=1):
        run(model, piece, cache)
    with pytest.raises(UserError, match="crop: 4 tokens back is inside the raw window"):
        cache.crop(-4)
    # Recorded from here on, exactly the tokens after this point can be removed.
    cache.activate_past_recording()
    run(model, tokens(1, 5, 3), cache)
    cache.crop(-5)
    new = tokens(1, 2, 4)
    whole = model(torch.cat((batch, new), 1), use_cache=False).logits[:, 70:]
    same(run(model, new, cache), whole)
    with pytest.raises(UserError, match="crop: 6 tokens back is inside the raw window"):
        cache.crop(-6)


def test_the_raw_window_takes_a_constant_number_of_bytes() -> None:
    for length in (3, 9, 40):
        used = []
        for window in (0, 4):
            model = tiny(2, raw_window=window)
            cache = TemporalLatentCache(model.config)
            run(model, tokens(2, length), cache)
            used.append(cache.used_nbytes)
        layers, rows, each = 2, 2, 20 * 8
        assert used[1] - used[0] == layers * rows * min(length, 4 + 1) * each


def test_going_back_twice_is_going_back_once() -> None:
    model, batch = tiny(3), tokens(2, 10)
    cache = TemporalLatentCache(model.config)
    cache.activate_past_recording()
    run(model, batch, cache)
    cache.crop(-2)
    cache.crop(-4)
    got = run(model, tokens(2, 2, 9), cache)
    whole = torch.cat((batch[:, :4], tokens(2, 2, 9)), 1)
    same(got, model(whole, use_cache=False).logits[:, 4:])


def test_going_back_into_a_forgotten_chunk_is_refused() -> None:
    model = tiny(3)
    cache = TemporalLatentCache(model.config)
    run(model, tokens(1, 8), cache)
    with pytest.raises(UserError, match=r"crop: 1 tokens back is inside a merged"):
        cache.crop(-1)
    # Padding beside the tokens that are recorded is no record of those before them.
    late = TemporalLatentCache(tiny(4).config)
    run(tiny(4), tokens(1, 2), late)
    late.activate_past_recording()
    run(tiny(4), tokens(1, 3), late, torch.tensor([[0, 1, 1]]))
    with pytest.raises(UserError, match=r"crop: 3 tokens back is inside a merged"):
        late.crop(-4)
    # Of two rows, the one that would end inside a chunk is named.
    rows = TemporalLatentCache(tiny(4).config)
    run(tiny(4), tokens(2, 7), rows)
    with pytest.raises(UserError, match=r"crop: 1 tokens back is inside a merged"):
        rows.layers[0].allocated_rows.restore_open(torch.tensor([1, 3]))
    cache.crop(-2)  # a whole chunk's border
    assert cache.get_seq_length() == 6
    cache.crop(3)  # Transformers 4: what to keep
    assert cache.get_seq_length() == 3
    same(
        run(model, tokens(1, 1), cache)[0, -1],
        model(torch.cat((tokens(1, 8)[:, :3], tokens(1, 1)), 1)).logits[0, -1],
    )
    with pytest.raises(UserError, match="crop: 9 tokens back, the cache holds 4"):
        cache.crop(-9)
    static = TemporalLatentCache(model.config, 10, static=True)
    run(model, tokens(1, 4), static)
    with pytest.raises(UserError, match="a static cache cannot be cropped"):
        static.crop(-1)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("static", [False, True])
def test_rows_can_be_moved_repeated_and_chosen(stride: int, static: bool) -> None:
    model = tiny(stride)
    rows = [tokens(1, n, n)[0] for n in (7, 4, 2)]
    batch, mask = left_padded(rows)
    cache = TemporalLatentCache(model.config, 40, static=static)
    run(model, batch, cache, mask)
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)
    rows = [rows[i] for i in order]
    new = tokens(3, 2, 8)
    got = run(model, new, cache)
    rows = [torch.cat((row, more)) for row, more in zip(rows, new, strict=True)]
    for index, row in enumerate(rows):
        same(got[index, -1], model(row[None]).logits[0, -1])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([5, 0, 3]))
    rows = [rows[2], rows[0], rows[1]]
    new = tokens(3, 1, 9)
    got = run(model, new, cache)
    for index, row in enumerate(rows):
        whole = torch.cat((row, new[index]))[None]
        same(got[index, -1], model(whole).logits[0, -1])


def test_padding_behind_a_row_is_its_newest_token_wherever_the_row_goes() -> None:
    model, nothing = tiny(3), torch.zeros(2, 2, dtype=torch.long)
    cache = TemporalLatentCache(model.config)
    newest = run(model, tokens(2, 5), cache)[:, -1:]
    cache.reorder_cache(torch.tensor([1, 0]))
    same(run(model, nothing, cache, nothing), newest.flip(0).expand(-1, 2, -1))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    same(run(model, nothing, cache, nothing), newest.expand(-1, 2, -1))
    cache.crop(-2)  # two columns of padding: nothing is known of what came before
    assert not run(model, nothing, cache, nothing).any()
    cache.reset()
    assert not run(model, nothing, cache, nothing).any()


def test_a_merge_never_reaches_a_sibling() -> None:
    model = tiny(2)
    cache = cache_of(model(tokens(1, 3)))
    cache.batch_repeat_interleave(2)
    both = torch.tensor([[5], [9]])
    got = run(model, both, cache)
    for index in range(2):
        whole = torch.cat((tokens(1, 3)[0], both[index]))[None]
        same(got[index, -1], model(whole).logits[0, -1])


def test_entries_are_written_by_the_attention_alone() -> None:
    cache = TemporalLatentCache(tiny(2).config)
    with pytest.raises(UserError, match="works with LlamaMTLA models alone"):
        cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    for length, static in ((None, True), (0, True), (-5, False)):
        with pytest.raises(UserError, match=f"max_cache_len: {length} given, a whole"):
            TemporalLatentCache(tiny(2).config, length, static)


def test_reserved_room_of_any_whole_number() -> None:
    config = tiny(2).config
    assert TemporalLatentCache(config, np.int64(9)).max_tokens == 9
    for wrong in (True, 2.0, "9"):
        with pytest.raises(UserError, match=r"max_cache_len: .* a whole number"):
            TemporalLatentCache(config, wrong)

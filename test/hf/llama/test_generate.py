"""``generate``: every way to decode gives what decoding without a cache gives."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from espnet_mtla.errors import UserError
from espnet_mtla.hf import TemporalLatentCache
from test.support.tiny_llama import cache_of, left_padded, tiny, tokens

GREEDY = {"do_sample": False, "max_new_tokens": 9}


@pytest.mark.parametrize(
    ("stride", "window"), [(1, 0), (2, 0), (3, 0), (4, 0), (2, 3), (3, 5)]
)
@pytest.mark.parametrize("way", ["greedy", "beam", "sample"])
def test_cached_is_uncached_for_padded_batches(
    stride: int, window: int, way: str
) -> None:
    options = dict(GREEDY)
    if way == "beam":
        options.update(num_beams=3, num_return_sequences=2)
    if way == "sample":
        options.update(do_sample=True, top_k=0)
    model = tiny(stride, raw_window=window)
    rows = [tokens(1, n, n)[0] for n in (7, 3, 10)]
    batch, mask = left_padded(rows)
    given_out = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        given_out.append(
            model.generate(batch, attention_mask=mask, use_cache=use_cache, **options)
        )
    assert torch.equal(*given_out)
    if way != "sample":
        per_row = options.get("num_return_sequences", 1)
        for index, row in enumerate(rows):
            alone = model.generate(row[None], **options)
            together = given_out[0][index * per_row : (index + 1) * per_row]
            assert torch.equal(together[:, -9:], alone[:, -9:])


@pytest.mark.parametrize(("stride", "window"), [(1, 0), (2, 0), (3, 0), (2, 3)])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_static_cache_gives_the_same(stride: int, window: int, beams: int) -> None:
    model = tiny(stride, raw_window=window)
    batch, mask = left_padded([tokens(1, n, n)[0] for n in (7, 4)])
    options = {**GREEDY, "num_beams": beams, "attention_mask": mask}
    dynamic = model.generate(batch, **options)
    static = model.generate(batch, cache_implementation="static", **options)
    assert torch.equal(dynamic, static)


@pytest.mark.parametrize("window", [0, 4])
def test_a_compiled_step_over_a_static_cache_is_compiled_once(window: int) -> None:
    model = tiny(3, dtype=torch.float32, raw_window=window)
    batch, mask = left_padded([tokens(1, n, n)[0] for n in (7, 4)])
    cache = TemporalLatentCache(model.config, 24, static=True)
    plain = model(batch, attention_mask=mask)
    model(batch, attention_mask=mask, cache=cache)
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(model, backend=counter, fullgraph=True)
    new = tokens(2, 8, 5)
    with torch.no_grad():
        for t in range(8):
            one = new[:, t : t + 1]
            got = step(one, cache=cache).logits
            plain = model(one, cache=cache_of(plain))
            torch.testing.assert_close(got, plain.logits, rtol=0, atol=1e-5)
    assert counter.frame_count == 1
    assert cache.get_seq_length() == 15


def test_a_steps_mask_has_one_form_however_long_the_text() -> None:
    model, vectors = tiny(2), torch.zeros(3, 1, 32)
    masks = [
        model.create_masks_for_generate(torch.ones(3, width), inputs_embeds=vectors)
        for width in (5, 6, 9)
    ]
    assert {(mask.shape, mask.stride()) for mask in masks} == {((3, 1), (1, 1))}


def test_static_caches_get_no_shorter() -> None:
    """So that a step compiled for one text serves the next."""
    model, options = tiny(2), {"do_sample": False, "return_dict_in_generate": True}
    lengths = []
    for new in (5, 3, 8):
        found = model.generate(
            tokens(1, 4), cache_implementation="static", max_new_tokens=new, **options
        )
        lengths.append(cache_of(found).max_tokens)
        plain = model.generate(tokens(1, 4), max_new_tokens=new, **options)
        assert torch.equal(found.sequences, plain.sequences)
    assert lengths == [8, 8, 11]


@pytest.mark.parametrize(("prompt", "noise"), [(6, 0.02), (1, 1.0)])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_assisted_decoding_is_greedy_decoding(
    stride: int, prompt: int, noise: float
) -> None:
    """If the first draft token is wrong, Transformers 4 crops the cache to length 0."""
    model, batch = tiny(stride), tokens(1, prompt)
    helper = tiny(stride)
    with torch.no_grad():
        for parameter in helper.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    # Transformers 4 needs to know an end of sentence here.
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": 49}
    greedy = model.generate(batch, **options)
    assert torch.equal(model.generate(batch, assistant_model=helper, **options), greedy)
    early = model.generate(batch, assistant_early_exit=1, **options)
    assert torch.equal(early, greedy) and model.config.num_hidden_layers == 2
    by_lookup = model.generate(batch, prompt_lookup_num_tokens=4, **options)
    assert torch.equal(by_lookup, greedy)


@settings(max_examples=25)
@given(
    stride=st.integers(1, 4),
    static=st.booleans(),
    rows=st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, 10), max_size=4),
)
def test_prefill_may_be_split_anywhere(
    stride: int, static: bool, rows: list[tuple[int, bool]], cuts: set[int]
) -> None:
    """Every column, of padding on either side too, whatever a part holds of a row."""
    model, total = tiny(stride), 11
    mask = torch.zeros(len(rows), total, dtype=torch.long)
    for row, (length, left) in zip(mask, rows, strict=True):
        row[total - length if left else 0 :][:length] = 1
    batch = tokens(len(rows), total) * mask
    cache = TemporalLatentCache(model.config, 12, static=static)
    with torch.no_grad():
        whole = model(batch, attention_mask=mask, use_cache=False).logits
        for start, stop in itertools.pairwise([0, *sorted(cuts), total]):
            part = model(
                batch[:, start:stop],
                attention_mask=mask[:, :stop],
                cache=cache,
            ).logits
            torch.testing.assert_close(part, whole[:, start:stop], rtol=0, atol=1e-10)
    assert cache.get_seq_length() == total
    assert cache.timeline.num_tokens.tolist() == [length for length, _ in rows]


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_a_prompt_padded_on_the_right_goes_on_from_its_last_token(chunk: int) -> None:
    model = tiny(3)
    rows = [tokens(1, n, n)[0] for n in (9, 2)]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    options = {**GREEDY, "prefill_chunk_size": chunk}
    given_out = model.generate(batch, attention_mask=batch.ne(0).long(), **options)
    for index, row in enumerate(rows):
        alone = model.generate(row[None], **GREEDY)
        assert torch.equal(given_out[index, -9:], alone[0, -9:])


def test_generate_in_chunks_and_from_a_filled_cache() -> None:
    model, batch = tiny(3), tokens(2, 12)
    expected = model.generate(batch, **GREEDY)
    chunked = model.generate(batch, prefill_chunk_size=5, **GREEDY)
    assert torch.equal(chunked, expected)
    cache = cache_of(model(batch[:, :7]))
    continued = model.generate(batch, cache=cache, **GREEDY)
    assert torch.equal(continued, expected)
    more = model.generate(expected, cache=cache, do_sample=False, max_new_tokens=4)
    longer = model.generate(batch, do_sample=False, max_new_tokens=13)
    assert torch.equal(more, longer)


def test_generate_from_vectors() -> None:
    model, batch = tiny(2), tokens(2, 7)
    vectors = model.get_input_embeddings()(batch)
    from_tokens = model.generate(batch, **GREEDY)[:, 7:]
    assert torch.equal(model.generate(inputs_embeds=vectors, **GREEDY), from_tokens)
    beams = model.generate(inputs_embeds=vectors, num_beams=3, **GREEDY)
    assert torch.equal(beams, model.generate(batch, num_beams=3, **GREEDY)[:, 7:])


def test_caches_that_do_not_fit_are_refused() -> None:
    from transformers import DynamicCache

    model, batch = tiny(2), tokens(2, 5)
    with pytest.raises(UserError, match="DynamicCache of 0 layers given"):
        model(batch, cache=DynamicCache())
    for wrong in (DynamicCache(), ((batch, batch),)):
        with pytest.raises(UserError, match=f"{type(wrong).__name__} of 0 layers giv"):
            model.generate(batch, cache=wrong, **GREEDY)
    other = cache_of(tiny(3)(batch))
    with pytest.raises(UserError, match=r"cache of another model.*stride 3.*stride 2"):
        model(batch, cache=other)
    deep = cache_of(tiny(2, num_hidden_layers=3)(batch))
    with pytest.raises(UserError, match="TemporalLatentCache of 3 layers given"):
        model(batch, cache=deep)
    own = cache_of(model(batch))
    with pytest.raises(UserError, match="holds 2 rows, 1 given"):
        model(batch[:1], cache=own)
    batch, mask = left_padded([tokens(1, n)[0] for n in (5, 3)])
    padded = cache_of(model(batch, attention_mask=mask))
    with pytest.raises(UserError, match="holds 2 rows, 1 given"):
        model(batch[:1], cache=padded)


@pytest.mark.parametrize("kind", ["quantized", "offloaded", "offloaded_static"])
def test_cache_kinds_that_are_not_made_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"cache_implementation: '{kind}' given"):
        tiny(2).generate(tokens(1, 4), cache_implementation=kind, **GREEDY)


def test_assisted_decoding_with_a_static_cache_is_refused() -> None:
    with pytest.raises(UserError, match="assisted decoding removes tokens"):
        tiny(2).generate(
            tokens(1, 4),
            cache_implementation="static",
            prompt_lookup_num_tokens=2,
            **GREEDY,
        )

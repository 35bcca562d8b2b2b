"""Decoding equals the full pass, for every attention type, prompt mode and row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention import QueryTokens, attention_settings
from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer, DecoderState
from espnet_mtla.errors import UserError
from test.support.attention_types import WIDTH
from test.support.tiny_decoder import KINDS, VOCAB, make, ragged

SAME = {"rtol": 0.0, "atol": 1e-10}
kinds = pytest.mark.parametrize("kind", KINDS)
modes = pytest.mark.parametrize("mode", ["fixed", "recompute"])


@kinds
@modes
def test_a_row_gives_in_a_batch_what_it_gives_alone(kind: str, mode: str) -> None:
    decoder = make(kind, mode)
    prompt, lengths, tokens = ragged([9, 6, 4, 1], 7)
    together = decoder(prompt, lengths, tokens)
    for row, length in enumerate(lengths.tolist()):
        alone = decoder(
            prompt[row : row + 1, :length],
            lengths[row : row + 1],
            tokens[row : row + 1, : row + 3],
        )
        torch.testing.assert_close(together[row : row + 1, : row + 3], alone, **SAME)


def poison(state: DecoderState) -> None:
    """Write NaN to all unwritten memory of the caches."""
    for part in state.scratch:
        part.fill_(float("nan"))
    for cache in state.caches:
        time = cache.timeline
        begun = -(-(time.num_tokens + time.offset) // time.stride)
        for entries, count in (
            (cache.prompt, time.prompt_chunks),
            (cache.suffix, begun - time.first_suffix_chunk),
        ):
            slot = torch.arange(entries.size(2))
            unwritten = slot >= count.unsqueeze(1)
            entries.masked_fill_(unwritten[:, None, :, None], float("nan"))
        if cache.raw is not None:
            cache.raw.ring[:, :, time.appended :] = float("nan")


@kinds
@modes
@pytest.mark.parametrize("share", [True, False], ids=["shared", "copied"])
def test_steps_with_forks_and_leavers_equal_the_full_pass(
    kind: str, mode: str, share: bool
) -> None:
    decoder, beam, steps = make(kind, mode), 3, 9
    prompt, lengths, _ = ragged([8, 5, 3, 1], 1)
    state = decoder.prefill(
        prompt, lengths, max_tokens=steps, beam=beam, share_prompt=share
    )
    history = torch.zeros(len(lengths) * beam, 0, dtype=torch.long)
    poison(state)
    for step in range(steps):
        new = torch.randint(0, VOCAB, (len(history),))
        history = torch.cat((history, new.unsqueeze(1)), dim=1)
        logits = decoder.step(new, state)
        rows = prompt.repeat_interleave(beam, 0), lengths.repeat_interleave(beam)
        torch.testing.assert_close(logits, decoder(*rows, history)[:, -1], **SAME)
        picks = torch.randint(0, beam, (len(lengths), beam))
        order = (picks + beam * torch.arange(len(lengths)).unsqueeze(1)).flatten()
        state.reorder(order)
        history = history[order]
        poison(state)
        if step == 4:  # the second utterance leaves, the others change places
            keep = torch.tensor([2, 0, 3])
            state.select(keep)
            prompt, lengths = prompt[keep], lengths[keep]
            history = history.view(4, beam, -1)[keep].flatten(0, 1)


@kinds
@modes
def test_bytes_in_use_are_what_the_formula_says(kind: str, mode: str) -> None:
    decoder = make(kind, mode)
    prompt, lengths, tokens = ragged([8, 5, 3], 6)
    for share in (True, False):
        state = decoder.prefill(
            prompt, lengths, max_tokens=6, beam=2, share_prompt=share
        )
        for step in range(6):
            decoder.step(tokens[:, step].repeat_interleave(2), state)
        formula = [decoder.cache_bytes(n, 6, 2, share, 8) for n in lengths.tolist()]
        assert state.used_nbytes == sum(formula)
        assert state.used_nbytes <= state.nbytes


@kinds
@modes
@settings(max_examples=8)
@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_several_tokens_at_once_equal_one_by_one(
    kind: str, mode: str, pieces: list[int]
) -> None:
    decoder, total = make(kind, mode), sum(pieces)
    prompt, lengths, tokens = ragged([6, 3, 2], total)
    state = decoder.prefill(prompt, lengths, max_tokens=total)
    outs = [decoder.extend(part, state) for part in tokens.split(pieces, dim=1)]
    full = decoder(prompt, lengths, tokens)
    torch.testing.assert_close(torch.cat(outs, dim=1), full, **SAME)


@modes
def test_the_prompt_is_updated_by_recomputation_alone(mode: str) -> None:
    """In fixed mode frames never see each other; recomputed, they do."""
    decoder = make("mtla_s2", mode)
    prompt, lengths, tokens = ragged([6], 3)
    caches = [
        decoder.prefill(p, lengths, max_tokens=1).caches[-1].prompt[0, 0, -1]
        for p in (prompt, torch.cat((prompt[:, :1] + 1.0, prompt[:, 1:]), dim=1))
    ]
    assert torch.equal(*caches) == (mode == "fixed")
    assert decoder(prompt, lengths, tokens).requires_grad


@kinds
def test_a_recomputed_prompt_goes_through_all_that_the_text_depends_on(
    kind: str,
) -> None:
    """The same as every layer run on the whole row: what a language model computes."""
    decoder = make(kind, "recompute")
    prompt, lengths, tokens = ragged([5, 5], 4)
    row = torch.cat((prompt, decoder.embed(tokens)), dim=1)
    for layer in decoder.layers:
        row = layer(row, QueryTokens(row))
    plain = decoder.output(decoder.norm(row[:, 5:]))
    torch.testing.assert_close(decoder(prompt, lengths, tokens), plain, **SAME)


def test_tied_embeddings_are_one_parameter() -> None:
    tied, free = make("mha", "fixed", tie_embeddings=True), make("mha", "fixed")
    assert tied.output.weight is tied.embedding.weight
    count = [sum(p.numel() for p in decoder.parameters()) for decoder in (free, tied)]
    assert count[0] - count[1] == VOCAB * WIDTH


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_mode", "prefix"),
        ("num_layers", 0),
        ("dropout", 1.5),
        ("attention", "flash"),
        ("vocab_size", -1),
        ("norm", "batchnorm"),
        ("norm_eps", 0.0),
        ("feed_forward", "gelu"),
        ("ffn_bias", 1),
        ("scale_embedding", "no"),
    ],
)
def test_a_bad_setting_is_named(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        DecoderConfig(**{"vocab_size": 5, field: value})


def test_wrong_shapes_are_named() -> None:
    decoder = make("mha", "fixed")
    prompt, lengths, tokens = ragged([4], 2)
    with pytest.raises(UserError, match="prompt: "):
        decoder(prompt[..., :5], lengths, tokens)
    with pytest.raises(UserError, match="prompt_lens: "):
        decoder(prompt, lengths.float(), tokens)


@pytest.mark.parametrize("attention", ["mha", "gqa", "mla", "mtla"])
def test_complete_settings_rebuild_the_same_model(attention: str) -> None:
    config = DecoderConfig(5, 16, num_layers=1, num_heads=2, attention=attention)
    complete = config.complete()
    assert set(complete["attention_conf"]) == set(attention_settings(attention))
    again = DecoderOnlyTransformer(DecoderConfig(5, **complete))
    again.load_state_dict(DecoderOnlyTransformer(config).state_dict(), strict=True)

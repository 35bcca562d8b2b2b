"""The model: padding, positions, documents, gradients, sizes, saving and loading."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from espnet_mtla.attention.naive import dense_attention
from espnet_mtla.errors import UserError
from espnet_mtla.hf import (
    LlamaMTLAConfig,
    LlamaMTLAForCausalLM,
    LlamaMTLAModel,
    TemporalLatentCache,
)
from espnet_mtla.hf.versions import CACHE_NAME
from test.support.tiny_llama import (
    SIZES,
    VOCABULARY,
    cache_of,
    left_padded,
    tiny,
    tokens,
)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@settings(max_examples=12)
@given(
    stride=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4),
    use_cache=st.booleans(),
)
def test_a_row_gives_what_it_gives_alone(
    stride: int, lengths: list[int], use_cache: bool
) -> None:
    model = tiny(stride)
    rows = [tokens(1, length, length)[0] for length in lengths]
    batch, mask = left_padded(rows)
    with torch.no_grad():
        logits = model(batch, attention_mask=mask, use_cache=use_cache).logits
        for index, row in enumerate(rows):
            close(logits[index, -len(row) :], model(row[None]).logits[0])


@settings(max_examples=8)
@given(stride=st.integers(1, 4), data=st.data())
def test_padding_may_stand_anywhere(stride: int, data: st.DataObject) -> None:
    model, batch = tiny(stride), tokens(2, 9)
    pattern = st.lists(st.booleans(), min_size=9, max_size=9)
    mask = torch.tensor([data.draw(pattern) for _ in batch])
    with torch.no_grad():
        logits = model(batch, attention_mask=mask.long()).logits
        assert logits.isfinite().all()
        for row in range(2):
            if mask[row].any():
                alone = model(batch[row, mask[row]][None]).logits[0]
                close(logits[row, mask[row]], alone)


def test_the_attention_is_the_projects_own() -> None:
    """One layer against the dense twin, whose rotary numbers lie in pairs."""
    model = tiny(3, rope_layout="pairs")
    attention = model.model.layers[0].self_attn
    x = torch.randn(1, 10, 32, dtype=torch.float64)
    angles = attention.angles(torch.arange(10)[None], x.dtype)
    ours, dense = (
        attention.attend_all(x, angles=angles),
        dense_attention(attention, x[0]),
    )
    close(ours[0], dense, 1e-6)  # the encoding of chunks is float32


def test_rotary_halves_are_pairs_in_another_order() -> None:
    halves, pairs = tiny(2), tiny(2, rope_layout="pairs")
    pairs.load_state_dict(halves.state_dict())
    order = torch.tensor([0, 2, 1, 3])  # where pairs want what halves have
    for layer in pairs.model.layers:
        attention = layer.self_attn
        latent = attention.settings.kv_lora_rank
        key = attention.wkv_a.weight.data[latent:]
        key.copy_(key[order].clone())
        query = attention.wq.weight.data.view(4, 12, 32)[:, 8:]
        query.copy_(query[:, order].clone())
    batch = tokens(1, 9)
    close(pairs(batch).logits, halves(batch).logits)


def test_only_differences_of_positions_count() -> None:
    model, batch = tiny(2), tokens(2, 8)
    position = torch.arange(8)[None]
    shifted = model(batch, position_ids=position + 17, use_cache=False).logits
    close(shifted, model(batch, use_cache=False).logits)
    stretched = model(batch, position_ids=position * 3, use_cache=False).logits
    assert (stretched - shifted).abs().max() > 1e-3


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_documents_in_one_row_do_not_see_each_other(stride: int) -> None:
    model, documents = tiny(stride), [tokens(1, n, n)[0] for n in (5, 1, 7)]
    row = torch.cat(documents)[None]
    position = torch.cat([torch.arange(len(d)) for d in documents])[None]
    logits = model(row, position_ids=position, use_cache=False).logits[0]
    for part, document in zip(logits.split([5, 1, 7]), documents, strict=True):
        close(part, model(document[None], use_cache=False).logits[0])


def checkpoint_activations(model: LlamaMTLAForCausalLM) -> None:
    """By the name that the installed Transformers has for it."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, batch = tiny(2).train(), tokens(2, 9)
    batch_mask = torch.ones_like(batch)
    batch_mask[1, :4] = 0

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(batch, attention_mask=batch_mask, labels=batch).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    checkpoint_activations(model)
    for a, b in zip(plain, gradients(), strict=True):
        close(a, b)
    assert all(g.isfinite().all() for g in plain)
    with pytest.raises(UserError, match="gradient checkpointing"):
        model(batch, cache=cache_of(tiny(2)(batch)))


@pytest.mark.parametrize("beams", [1, 2])
def test_a_model_in_training_generates_with_its_cache(beams: int) -> None:
    """Without gradients, nothing is checkpointed, and nothing runs twice."""
    model, batch = tiny(3).train(), tokens(2, 5)
    options = {"do_sample": False, "max_new_tokens": 7, "num_beams": beams}
    expected = model.generate(batch, use_cache=False, **options)
    checkpoint_activations(model)
    found = model.generate(batch, return_dict_in_generate=True, **options)
    assert torch.equal(found.sequences, expected)
    assert cache_of(found).get_seq_length() == 11


def test_training_gives_the_same_gradients_with_a_cache_and_without() -> None:
    model, batch = tiny(2).train(), tokens(2, 9)
    for use_cache in (True, False):
        model.zero_grad()
        model(batch, labels=batch, use_cache=use_cache).loss.backward()
        if use_cache:
            cached = [p.grad.clone() for p in model.parameters()]
    for a, b in zip(cached, model.parameters(), strict=True):
        close(a, b.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    batch = tokens(2, 70)
    exact = tiny(2, dtype=torch.float32)(batch).logits.log_softmax(-1)
    near = tiny(2, dtype=dtype)(batch).logits.float().log_softmax(-1)
    assert (exact - near).abs().mean() < 0.08


def test_hidden_states_of_padded_batches_are_unpacked() -> None:
    model, batch = tiny(2), tokens(2, 6)
    mask = torch.ones_like(batch)
    mask[1, :3] = 0
    states = model(batch, attention_mask=mask, output_hidden_states=True).hidden_states
    alone = model(batch[1:, 3:], output_hidden_states=True).hidden_states
    assert len(states) == len(alone) == 3
    for a, b in zip(states, alone, strict=True):
        close(a[1, 3:], b[0])


def test_saved_and_loaded_by_the_auto_classes(tmp_path) -> None:
    model, batch = tiny(3, dtype=torch.float32), tokens(1, 7)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), LlamaMTLAConfig)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is LlamaMTLAForCausalLM and again.config.down_rate == 3
    close(again(batch).logits, model(batch).logits, 0)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is LlamaMTLAModel
    close(body(batch).last_hidden_state, model.model(batch).last_hidden_state, 0)


def test_tied_weights_stay_tied_and_the_vocabulary_can_grow(tmp_path) -> None:
    model = tiny(2, dtype=torch.float32, tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = model(tokens(1, 5)).logits
    model.resize_token_embeddings(VOCABULARY + 6)
    after = model(tokens(1, 5)).logits
    assert after.size(-1) == model.config.vocab_size == VOCABULARY + 6
    close(after[..., :VOCABULARY], before, 1e-6)
    model.save_pretrained(tmp_path)
    again = LlamaMTLAForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    close(again(tokens(1, 5)).logits, after, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: 0 given"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0 given"),
        ({"kv_lora_rank": 0}, "kv_lora_rank: 0 given"),
        ({"kv_lora_rank": 15}, "kv_lora_rank: 15 given, an even number"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim: 3 given, an even number"),
        ({"down_rate": 0}, "down_rate: 0 given"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 given"),
        ({"hyper_network": False}, "down_rate: 2 given, 1 without a hyper_network"),
        ({"kv_norm": "rms"}, "kv_norm: 'rms' given, one of layer, none"),
        ({"rope_layout": "thirds"}, "rope_layout: 'thirds' given"),
        ({"rope_frequencies": [1.0]}, r"rope_frequencies: \[1.0\] given, 2 num"),
        ({"rope_frequencies": 3}, "rope_frequencies: 3 given, 2 numbers"),
        ({"rope_theta": 0}, "rope_theta: 0 given, a number > 0"),
        ({"hidden_act": "foo"}, "hidden_act: 'foo' given"),
        ({"pad_token_id": 50}, "pad_token_id: 50 given, a token, below vocab_size=50"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"recompute_prompt_attn": False}, "recompute_prompt_attn: False given"),
    ],
)
def test_sizes_that_cannot_be_are_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LlamaMTLAConfig(**{**SIZES, "down_rate": 2, **change})


@pytest.mark.skipif(transformers.__version__ < "5", reason="nothing is checked there")
def test_what_transformers_finds_wrong_is_one_line_too() -> None:
    for change in ({"hidden_size": "32"}, {"initializer_range": -1.0}):
        with pytest.raises(UserError, match=min(change)) as raised:
            LlamaMTLAConfig(**{**SIZES, **change})
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_types_that_change_with_the_length_are_refused(kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    if kind == "longrope":
        scaling.update(short_factor=[1.0, 1.0], long_factor=[2.0, 2.0])
    with pytest.raises(UserError, match=f"rope_type: '{kind}' given, default or linea"):
        LlamaMTLAConfig(**SIZES, rope_scaling=scaling)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaled_rotation_is_that_of_a_llama(kind: str) -> None:
    scaling = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0}
    if kind != "linear":
        scaling["original_max_position_embeddings"] = 64
    if kind == "llama3":
        scaling.update(low_freq_factor=1.0, high_freq_factor=4.0)
    model = tiny(2, qk_rope_head_dim=8, rope_scaling=dict(scaling))
    attention = model.model.layers[0].self_attn
    x, position = torch.randn(1, 60, 8), torch.arange(60)[None]
    llama = LlamaConfig(
        head_dim=8, max_position_embeddings=128, rope_scaling=dict(scaling)
    )
    angles = LlamaRotaryEmbedding(llama)(x, position)
    theirs, _ = apply_rotary_pos_emb(x[:, None], x[:, None], *angles)
    ours = attention.rotate(x, attention.angles(position, x.dtype))
    pairs = theirs.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    close(ours, pairs[:, 0], 1e-5)
    assert (attention.rope_scale > 1) == (kind == "yarn")
    batch = tokens(2, 9)
    cache = cache_of(model(batch[:, :5]))
    cached = model(batch[:, 5:], cache=cache).logits
    close(cached, model(batch, use_cache=False).logits[:, 5:])


def test_what_is_asked_for_in_vain_is_said() -> None:
    model, batch = tiny(2), tokens(1, 4)
    with pytest.raises(UserError, match="input_ids, inputs_embeds: give one"):
        model(batch, inputs_embeds=model.model.embed_tokens(batch))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": torch.ones(4).long()}, r"input_ids: \(4,\) of torch\.int64 giv"),
        ({"input_ids": torch.ones(1, 4)}, r"input_ids: \(1, 4\) of torch\.float32"),
        ({"input_ids": torch.ones(1, 0).long()}, r"one token at least, needed"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"attention_mask: \(1, 1, 4, 4\)"),
        ({"attention_mask": torch.ones(2, 3)}, r"attention_mask: \(2, 3\) given"),
        ({"attention_mask": torch.ones(2, 5)}, r"attention_mask: \(2, 5\) given"),
        ({"attention_mask": torch.ones(1, 4)}, r"attention_mask: \(1, 4\) given"),
        ({"attention_mask": -torch.ones(2, 4)}, "attention_mask: values below 0"),
        ({"position_ids": torch.arange(4)}, r"position_ids: \(4,\) given, \(1, 4\) or"),
        ({"position_ids": torch.ones(2, 5)}, r"position_ids: \(2, 5\) given"),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_one_line(
    given: dict, message: str
) -> None:
    model = tiny(2)
    with pytest.raises(UserError, match=message) as raised:
        model(**{"input_ids": tokens(2, 4), **given})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("static", [False, True])
def test_shapes_are_looked_at_with_a_cache_too(static: bool) -> None:
    model, batch = tiny(2), tokens(2, 4)
    cache = TemporalLatentCache(model.config, 20, static=static)
    model(batch, cache=cache)
    with pytest.raises(UserError, match=r"attention_mask: \(2, 7\) given"):
        model(batch, attention_mask=torch.ones(2, 7), cache=cache)
    with pytest.raises(UserError, match=r"inputs_embeds: \(2, 4, 31\) of torch\.float"):
        model(inputs_embeds=torch.ones(2, 4, 31), cache=cache)
    for mask in (torch.ones(2, 1), torch.ones(2, 6)):
        model(batch[:, :1], attention_mask=mask, cache=cache)
    assert cache.get_seq_length() == 6


def test_a_cache_of_a_model_of_the_same_entries_is_refused() -> None:
    model, batch = tiny(2), tokens(2, 4)
    for change in ({"hidden_size": 16}, {"dtype": torch.float32}):
        other = cache_of(tiny(2, **change)(batch))
        with pytest.raises(UserError, match=rf"{CACHE_NAME}: a cache of ve") as e:
            model(batch, cache=other)
        assert "; 32 torch.float64 on cpu needed" in str(e.value)

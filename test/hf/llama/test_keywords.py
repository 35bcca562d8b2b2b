"""The cache by either keyword, and no keyword that is dropped."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAForCausalLM, TemporalLatentCache
from espnet_mtla.hf.llama.attention import PassInputs
from espnet_mtla.hf.versions import CACHE_NAMES, TRANSFORMERS_4
from test.support.tiny_llama import cache_of, left_padded, tiny, tokens

MADE_UP = ("made_up", "past_key_value", "cache_params", "layer_past", "is_causal")


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_step_sees_the_cache_by_either_name(name: str, stride: int) -> None:
    model, batch = tiny(stride), tokens(2, 9)
    whole = model(batch, use_cache=False).logits
    for part, field in ((model, "logits"), (model.model, "last_hidden_state")):
        cache = TemporalLatentCache(model.config)
        for start in range(0, 9, 3):
            out = part(batch[:, start : start + 3], **{name: cache})
        assert cache_of(out) is cache and cache.get_seq_length() == 9
        states = out[field] if field == "logits" else model.lm_head(out[field])
        same(states, whole[:, 6:])


@pytest.mark.parametrize("beams", [1, 3])
# The user's own use of the old name is Transformers' to warn of.
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")
@pytest.mark.parametrize("name", CACHE_NAMES)
def test_generate_goes_on_from_a_cache_by_either_name(name: str, beams: int) -> None:
    model, batch = tiny(3), tokens(2, 8)
    options = {"do_sample": False, "max_new_tokens": 7, "num_beams": beams}
    expected = model.generate(batch, use_cache=False, **options)
    cache = cache_of(model(batch[:, :5]))
    if beams > 1:
        cache.batch_repeat_interleave(beams)
    got = model.generate(batch, **{name: cache}, **options)
    assert torch.equal(got, expected)
    assert cache.get_seq_length() == 14


@pytest.mark.parametrize("call", ["forward", "body", "generate"])
def test_two_different_caches_are_refused(call: str) -> None:
    model, batch = tiny(2), tokens(1, 4)
    generate = partial(model.generate, max_new_tokens=2)
    call = {"forward": model, "body": model.model, "generate": generate}[call]
    one, other = (TemporalLatentCache(model.config) for _ in range(2))
    with pytest.raises(UserError, match="cache, past_key_values: two different caches"):
        call(batch, cache=one, past_key_values=other)
    call(batch, cache=one, past_key_values=one)
    assert one.get_seq_length() >= 4 and other.get_seq_length() == 0


@pytest.mark.parametrize("value", [None, 1, torch.ones(1, 4)])
@pytest.mark.parametrize("made_up", MADE_UP)
def test_no_forward_drops_a_keyword(made_up: str, value: object) -> None:
    model, batch = tiny(2), tokens(1, 4)
    layer, x = model.model.layers[0], torch.zeros(1, 4, 32, dtype=torch.float64)
    calls = {
        model: batch,
        model.model: batch,
        model.generate: batch,
        layer: x,
        layer.self_attn: x,
        model.create_masks_for_generate: torch.ones(1, 4),
    }
    for call, first in calls.items():
        more = {"inputs": PassInputs()} if first is x else {}
        if call == model.create_masks_for_generate:
            if value is None:  # Transformers passes all that any model may need
                continue
            more = {"inputs_embeds": x}
        with pytest.raises((UserError, TypeError, ValueError), match=made_up):
            call(first, **more, **{made_up: value})


@pytest.mark.parametrize("name", [*CACHE_NAMES, "attention_mask", "position_ids"])
def test_the_layers_take_nothing_of_llamas_by_keyword(name: str) -> None:
    """It would be dropped: what layers need is in their step."""
    layer, x = tiny(2).model.layers[0], torch.zeros(1, 4, 32, dtype=torch.float64)
    for module in (layer, layer.self_attn):
        with pytest.raises(TypeError, match=name):
            module(x, inputs=PassInputs(), **{name: None})


def test_saving_and_loading_drop_no_keyword(tmp_path) -> None:
    model = tiny(2, dtype=torch.float32)
    with pytest.raises(UserError, match="save_pretrained: unknown keyword 'made_up'"):
        model.save_pretrained(tmp_path, made_up=1)
    model.save_pretrained(tmp_path, max_shard_size="1GB")
    with pytest.raises(TypeError, match="made_up"):
        LlamaMTLAForCausalLM.from_pretrained(tmp_path, made_up=1)


def test_the_columns_that_transformers_4_passes_are_checked() -> None:
    model, batch = tiny(2), tokens(1, 6)
    whole = model(batch, use_cache=False).logits
    cache = TemporalLatentCache(model.config)
    model(batch[:, :4], cache=cache, cache_position=torch.arange(4))
    for wrong in (torch.arange(2), torch.arange(4, 7), torch.arange(5, 7), 4):
        with pytest.raises(
            UserError, match=r"cache_position: .* have the columns"
        ) as e:
            model(batch[:, 4:], cache=cache, cache_position=wrong)
        assert "\n" not in str(e.value)
    out = model(batch[:, 4:], cache=cache, cache_position=torch.arange(4, 6))
    same(out.logits, whole[:, 4:])


def test_a_second_segment_is_refused() -> None:
    model, batch = tiny(2), tokens(1, 4)
    same(model(batch, token_type_ids=batch * 0).logits, model(batch).logits)
    for wrong in (torch.tensor([[0, 0, 1, 1]]), [0, 0, 0, 0]):
        with pytest.raises(UserError, match="token_type_ids: other than 0 given"):
            model(batch, token_type_ids=wrong)


@pytest.mark.parametrize("items", [None, 5, torch.tensor(11)])
def test_the_number_of_labels_divides_the_loss(items: object) -> None:
    model, batch = tiny(2), tokens(2, 6)
    labels = batch.masked_fill(torch.arange(6) < 2, -100)
    out = model(batch, labels=labels, num_items_in_batch=items)
    logits, wanted = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    same(out.loss.double(), loss / (8 if items is None else items), 1e-5)


def test_which_logits_are_kept() -> None:
    model, batch = tiny(2), tokens(2, 6)
    all_of_them = model(batch).logits
    mask = torch.rand(2, 6) > 0.5
    expected = {
        0: all_of_them,
        2: all_of_them[:, -2:],
        torch.tensor([4, 0]): all_of_them[:, [4, 0]],
        torch.tensor([[4], [1]]): all_of_them[[0, 1], [4, 1]][:, None],
        mask: all_of_them[mask],
    }
    for keep, logits in expected.items():
        same(model(batch, logits_to_keep=keep).logits, logits)
    same(model(batch, logits_to_keep=np.int64(2)).logits, all_of_them[:, -2:])
    for wrong in (-1, True, 1.5, torch.ones(6), mask[0], torch.ones(1, 1, 1).long()):
        with pytest.raises(UserError, match="logits_to_keep: "):
            model(batch, logits_to_keep=wrong)


def test_a_tuple_is_given_where_one_is_asked_for() -> None:
    model, batch = tiny(2), tokens(1, 5)
    logits, cache = model(batch, return_dict=False)
    assert cache.get_seq_length() == 5
    model.config.return_dict = False
    same(model(batch)[0], logits)
    assert model.model(batch)[0].shape == (1, 5, 32)


def test_a_chat_of_several_turns_keeps_its_cache() -> None:
    model, chat = tiny(3), tokens(2, 5)
    cache, mask = TemporalLatentCache(model.config), torch.ones(2, 5)
    mask[1, :2] = 0
    for turn in range(4):
        options = {"max_new_tokens": 3 + turn, "do_sample": False}
        options["attention_mask"] = mask.long()
        fresh = model.generate(chat, use_cache=False, **options)
        chat_so_far = model.generate(chat, cache=cache, **options)
        assert torch.equal(chat_so_far, fresh)
        assert cache.get_seq_length() == fresh.size(1) - 1  # the last was not read
        chat = torch.cat((fresh, tokens(2, 2, turn + 9)), 1)
        mask = torch.cat((mask, torch.ones(2, chat.size(1) - mask.size(1))), 1)


@pytest.mark.parametrize("by", ["input_ids", "inputs_embeds", "first"])
@pytest.mark.parametrize("held", [5, 6, 8])
def test_a_prompt_that_the_cache_holds_already_is_refused(held: int, by: str) -> None:
    """Otherwise the prompt would be read twice."""
    model, batch = tiny(2), tokens(2, 9)
    cache = cache_of(model(batch[:, :held]))
    vectors = model.get_input_embeddings()(batch[:, :5])
    given = {"input_ids": batch[:, :5], "inputs_embeds": vectors, "first": batch[:, :5]}
    args, more = ((given[by],), {}) if by == "first" else ((), {by: given[by]})
    with pytest.raises(UserError, match=f"holds {held} tokens, the prompt has 5") as e:
        model.generate(*args, **more, cache=cache, max_new_tokens=2)
    assert "\n" not in str(e.value)
    assert cache.get_seq_length() == held


def test_a_cache_beside_use_cache_false_is_refused() -> None:
    model, batch = tiny(2), tokens(1, 6)
    cache = cache_of(model(batch[:, :3]))
    with pytest.raises(UserError, match="use_cache: False given beside"):
        model.generate(batch, cache=cache, use_cache=False, max_new_tokens=2)


@pytest.mark.skipif(TRANSFORMERS_4, reason="the whole text is needed there")
@pytest.mark.parametrize("new", [1, 2, 6])
def test_new_tokens_alone_go_on_behind_a_cache(new: int) -> None:
    model, batch = tiny(3), tokens(2, 5 + new)
    mask = torch.ones_like(batch)
    mask[1, :2] = 0
    options = {"do_sample": False, "max_new_tokens": 6, "attention_mask": mask}
    cache = cache_of(model(batch[:, :5], attention_mask=mask[:, :5]))
    got = model.generate(batch[:, 5:], cache=cache, **options)
    expected = model.generate(batch, use_cache=False, **options)
    assert torch.equal(got, expected[:, 5:])


@pytest.mark.parametrize("room", [12, 16, 17, 40])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("static", [False, True])
def test_a_cache_with_reserved_room_gives_the_same(
    static: bool, beams: int, room: int
) -> None:
    """A cache that is too small grows, or is an error if it cannot."""
    model = tiny(3)
    batch, mask = left_padded([tokens(1, n, n)[0] for n in (9, 4)])
    options = {"do_sample": False, "max_new_tokens": 8, "num_beams": beams}
    options["attention_mask"] = mask
    expected = model.generate(batch, use_cache=False, **options)
    cache = TemporalLatentCache(model.config, room, static=static)
    if static and room < 16:
        with pytest.raises((UserError, IndexError)):
            model.generate(batch, cache=cache, **options)
        return
    assert torch.equal(model.generate(batch, cache=cache, **options), expected)


def test_inputs_as_vectors_go_on_as_tokens() -> None:
    model, batch = tiny(2), tokens(2, 6)
    vectors = model.get_input_embeddings()(batch)
    options = {"do_sample": False, "max_new_tokens": 6}
    for more in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        uncached = model.generate(batch, use_cache=False, **options)
        if "num_beams" in more:
            uncached = model.generate(batch, use_cache=False, **more, **options)
        cached = model.generate(inputs_embeds=vectors, **more, **options)
        assert torch.equal(cached, uncached[:, 6:])


def test_a_generation_config_and_sampling_with_several_returned() -> None:
    model, batch = tiny(2), tokens(2, 5)
    config = GenerationConfig(
        do_sample=True, top_p=0.9, num_return_sequences=3, max_new_tokens=6
    )
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(4)
        config.use_cache = use_cache
        texts.append(model.generate(batch, generation_config=config))
    assert torch.equal(*texts)


def test_the_pipeline_writes_what_generate_does() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, pipeline

    model = tiny(2, dtype=torch.float32)
    words = {f"w{n}": n for n in range(50)}
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="w0")
    tokenizer.padding_side = "left"
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    prompts = ["w3 w9 w4 w7", "w8 w2"]
    options = {"do_sample": False, "max_new_tokens": 6, "return_full_text": False}
    for batch_size in (1, 2):
        found = write(prompts, batch_size=batch_size, **options)
        for prompt, texts in zip(prompts, found, strict=True):
            ids = torch.tensor([[words[word] for word in prompt.split()]])
            expected = model.generate(
                ids, do_sample=False, max_new_tokens=6, use_cache=False
            )
            got = texts[0]["generated_text"].split()
            shown = expected[0, ids.size(1) :]  # w0 is padding, and not written
            assert [words[w] for w in got] == shown[shown > 0].tolist()
    states = pipeline("feature-extraction", model=model.model, tokenizer=tokenizer)
    assert len(states(prompts[0])[0]) == 4


def test_the_trainer_evaluates_logits_alone(tmp_path) -> None:
    """The Trainer would gather and concatenate a returned cache."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    rows = [{"input_ids": row, "labels": row} for row in tokens(4, 6)]
    trainer = Trainer(tiny(2, dtype=torch.float32), arguments)
    found = trainer.predict(rows)
    assert found.predictions.shape == (4, 6, 50)

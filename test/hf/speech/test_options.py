"""Options of each interface have an effect or are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, pipeline

from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq, MTLASpeechProcessor
from test.support.tiny_experiment import FS
from test.support.tiny_recipes import noise, tiny

DECODE = {"beam_size": 3, "nbest": 2, "length_norm": 0.5}


@pytest.fixture(scope="module")
def small():
    return tiny(decode=DECODE)


def asked(model, config=None, **keywords) -> dict[str, float]:
    options = model.decode_options(keywords, config)
    names = ("beam_size", "nbest", "min_length_ratio", "max_length_ratio")
    return {name: getattr(options, name) for name in names}


PLAIN = {"beam_size": 3, "nbest": 2, "min_length_ratio": 0.0, "max_length_ratio": 0.0}


@pytest.mark.parametrize(
    ("keywords", "changes"),
    [
        ({}, {}),
        ({"num_beams": 5}, {"beam_size": 5}),
        ({"num_beams": 1}, {"beam_size": 1, "nbest": 1}),
        ({"num_return_sequences": 6}, {"beam_size": 6, "nbest": 6}),
        ({"num_return_sequences": np.int64(6)}, {"beam_size": 6, "nbest": 6}),
        ({"max_new_tokens": np.int64(7)}, {"max_length_ratio": -7}),
        ({"do_sample": np.bool_(False)}, {}),
        ({"max_new_tokens": 7}, {"max_length_ratio": -7}),
        ({"max_length": 7}, {"max_length_ratio": -6}),
        ({"max_length": 7, "max_new_tokens": 3}, {"max_length_ratio": -3}),
        ({"max_new_tokens": 3, "max_length": 7}, {"max_length_ratio": -3}),
        ({"min_new_tokens": 2}, {"min_length_ratio": -2}),
        ({"min_length": 3}, {"min_length_ratio": -2}),
        ({"max_length_ratio": 0.5}, {"max_length_ratio": 0.5}),
        ({"maxlenratio": 0.5}, {"max_length_ratio": 0.5}),
        ({"do_sample": False, "use_cache": True, "synced_gpus": False}, {}),
        ({"num_beams": None, "assistant_model": None, "temperature": 1.0}, {}),
        ({"pad_token_id": 0, "eos_token_id": [10], "bos_token_id": 10}, {}),
        ({"return_dict_in_generate": False}, {}),
    ],
)
def test_keywords(small, keywords, changes) -> None:
    assert asked(small, **keywords) == PLAIN | changes


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beams": 3}, "generate: unknown option 'beams'; valid: num_beams, "),
        ({"do_sample": True}, "unknown option 'do_sample'"),
        ({"use_cache": False}, "unknown option 'use_cache'"),
        ({"synced_gpus": True}, "unknown option 'synced_gpus'"),
        ({"assistant_model": object()}, "unknown option 'assistant_model'"),
        ({"length_penalty": 1.0}, "unknown option 'length_penalty'"),
        ({"decoder_input_ids": torch.ones(2, 1)}, "unknown option 'decoder_input_ids'"),
        ({"logits_processor": []}, "unknown option 'logits_processor'"),
        ({"pad_token_id": 4}, "pad_token_id: 4 given, 0 needed: the model's"),
        ({"eos_token_id": [10, 4]}, r"eos_token_id: \[10, 4\] given, 10 needed"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 given, a whole number >= 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens: 2.5 given"),
        ({"max_length": 1}, "max_length: 1 given, a whole number >= 2"),
        ({"num_beams": 0}, "beam_size"),
        ({"num_beams": "many"}, "beam_size"),
        ({"num_beams": 2, "beam_size": 3}, "num_beams, beam_size: give one of them"),
        ({"max_new_tokens": 2, "max_length_ratio": 1.0}, "give one of them"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16' given, the decoder is in float32"),
    ],
)
def test_keywords_that_are_refused(small, keywords, message) -> None:
    small.train()
    with pytest.raises(UserError, match=message):
        small.generate(noise(), **keywords)
    assert small.training, "refused, and yet something was changed"
    assert asked(small) == PLAIN
    small.eval()


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {}),
        ({"num_beams": 5}, {"beam_size": 5}),
        ({"max_length": 9}, {"max_length_ratio": -8}),
        ({"max_new_tokens": 9}, {"max_length_ratio": -9}),
        ({"num_beams": 4, "num_return_sequences": 3}, {"beam_size": 4, "nbest": 3}),
    ],
)
def test_generation_configs(fields, changes) -> None:
    model = tiny(decode=DECODE)
    config = GenerationConfig(**{"num_beams": 3, "num_return_sequences": 2, **fields})
    assert asked(model, config) == PLAIN | changes
    assert asked(model) == PLAIN
    assert asked(model, config, num_beams=7)["beam_size"] == 7
    model.generation_config = config
    assert asked(model) == PLAIN | changes
    model.generation_config.num_beams = 6
    assert config.num_beams != 6
    assert asked(model)["beam_size"] == 6


def test_what_a_config_cannot_ask_for(small) -> None:
    config = GenerationConfig(num_beams=3, repetition_penalty=1.3)
    with pytest.raises(UserError, match="config: unknown option 'repetition_penalty'"):
        small.generate(noise(), generation_config=config)


def test_a_changed_recipe_counts() -> None:
    """Values of the recipe in ``generation_config`` do not override ``decode``."""
    other = tiny()
    assert asked(other)["beam_size"] == 2
    other.config.decode = {**other.config.decode, "beam_size": 4}
    assert asked(other)["beam_size"] == 4


def test_what_was_chosen_is_saved(tmp_path) -> None:
    model = tiny()
    model.generation_config.num_beams = 4
    model.generation_config.max_length = 9
    wanted = asked(model)
    model.save_pretrained(tmp_path)
    assert asked(model) == wanted
    assert asked(MTLAForSpeechSeq2Seq.from_pretrained(tmp_path)) == wanted
    assert wanted["max_length_ratio"] == -8


@pytest.fixture(scope="module")
def parts(packed):
    doors = MTLAForSpeechSeq2Seq, MTLASpeechProcessor
    return tuple(door.from_packed(packed) for door in doors)


def test_the_pipeline_hands_options_on(parts, tmp_path) -> None:
    for part in parts:
        part.save_pretrained(tmp_path)
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path))
    sound = noise(1)[0].numpy()
    short = {"num_beams": 1, "max_new_tokens": 2, "min_length_ratio": 0.0}
    wanted = parts[1].decode(parts[0].generate(noise(1), **short)[0])
    assert recognise(sound, generate_kwargs=short)["text"] == wanted
    with pytest.raises(UserError, match="unknown option 'top_k'"):
        recognise(sound, generate_kwargs={"top_k": 3})


def test_the_processor(parts) -> None:
    processor = parts[1]
    sound = np.zeros(900, np.float32)
    both = processor(
        [sound, sound[:500]],
        text=["ab", "a"],
        sampling_rate=FS,
        padding=True,
        return_tensors="pt",
    )
    assert both["labels"].tolist() == [[3, 4], [3, -100]]
    assert both["attention_mask"].sum(1).tolist() == [900, 500]
    assert set(processor(text="ab")) == {"labels"}
    ids = torch.tensor([3, 4, 10])
    assert processor.decode(ids) == "ab" == processor.decode(ids, True)
    assert processor.decode(ids, skip_special_tokens=False) == "ab<sos/eos>"
    assert processor.batch_decode(ids[None], skip_special_tokens=True) == ["ab"]
    call = {"audio": sound, "sampling_rate": FS}
    for options, message in (
        ({**call, "return_tensors": "np"}, "return_tensors='np': not supported"),
        ({**call, "padding": "max_length"}, "padding='max_length'"),
        ({**call, "truncation": True}, "truncation=True"),
        ({}, "audio or text is needed"),
        ({**call, "text": ["a", "b"]}, "1 sounds and 2 texts"),
    ):
        with pytest.raises(UserError, match=message):
            processor(**options)
    with pytest.raises(UserError, match="id -100 given, 0 to 10 needed"):
        processor.decode([3, -100])
    with pytest.raises(UserError, match="unknown keyword 'output_char_offsets'"):
        processor.decode([3], output_char_offsets=True)

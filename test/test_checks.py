"""Settings in other number types than Python's: as good, or refused by name."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.attention import CacheOptions, build_attention, complete_settings
from espnet_mtla.attention.config import (
    LatentConfig,
    MultiheadConfig,
    TemporalLatentConfig,
)
from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.decoder.memory import Load, decode_bytes
from espnet_mtla.errors import UserError
from espnet_mtla.search import DecodeOptions
from test.support.attention_types import LATENT

INTEGERS = [getattr(np, f"{u}int{b}") for u in ("", "u") for b in (8, 16, 32, 64)]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble, Fraction]
# A setting of each type of number, word and flag.
COUNTS = [
    (MultiheadConfig, {"embed_dim": 32, "num_heads": 4}, "num_kv_heads", 2),
    (MultiheadConfig, {"embed_dim": 32, "num_heads": 4}, "num_heads", 2),
    (LatentConfig, {"embed_dim": 32, "num_heads": 4}, "kv_lora_rank", 16),
    (TemporalLatentConfig, {"embed_dim": 32, "num_heads": 4}, "down_rate", 3),
    (DecoderConfig, {"vocab_size": 9}, "num_layers", 2),
    (DecodeOptions, {}, "beam_size", 4),
    (DecodeOptions, {}, "expand_from", 7),
    (CacheOptions, {}, "expand_from", 7),
]
NUMBERS = [
    (MultiheadConfig, {"embed_dim": 32, "num_heads": 4}, "dropout"),
    (MultiheadConfig, {"embed_dim": 32, "num_heads": 4}, "rope_base"),
    (DecoderConfig, {"vocab_size": 9}, "dropout"),
    (DecodeOptions, {}, "ctc_weight"),
    (DecodeOptions, {}, "max_length_ratio"),
]
FLAGS = [
    (LatentConfig, {"embed_dim": 32, "num_heads": 4}, "bias"),
    (DecoderConfig, {"vocab_size": 9}, "tie_embeddings"),
    (DecodeOptions, {}, "share_prompt"),
]
WORDS = [
    (DecoderConfig, {"vocab_size": 9}, "prompt_mode", "recompute"),
    (DecodeOptions, {}, "cache_dtype", "int8"),
]


@pytest.mark.parametrize("number", INTEGERS)
@pytest.mark.parametrize(("cls", "needed", "field", "value"), COUNTS)
def test_integers_of_numpy_are_whole_numbers(
    cls: type, needed: dict, field: str, value: int, number: type
) -> None:
    settings = cls(**{**needed, field: number(value)})
    assert settings == cls(**{**needed, field: value})
    assert type(getattr(settings, field)) is int


@pytest.mark.parametrize("number", FLOATS)
@pytest.mark.parametrize(("cls", "needed", "field"), NUMBERS)
def test_floats_of_numpy_are_numbers(
    cls: type, needed: dict, field: str, number: type
) -> None:
    settings = cls(**{**needed, field: number(0.25)})
    assert settings == cls(**{**needed, field: 0.25})
    assert type(getattr(settings, field)) is float


@pytest.mark.parametrize(("cls", "needed", "field"), FLAGS)
def test_flags_and_words_of_numpy(cls: type, needed: dict, field: str) -> None:
    for flag in (True, False):
        settings = cls(**{**needed, field: np.bool_(flag)})
        assert getattr(settings, field) is flag
    for cls, needed, field, word in WORDS:
        settings = cls(**{**needed, field: np.str_(word)})
        assert type(getattr(settings, field)) is str
        assert getattr(settings, field) == word


STRANGE = [
    None,
    True,
    np.bool_(True),
    "2",
    2.0,
    np.float64(2),
    np.array([2, 3]),
    Decimal(2),
    [2],
    {},
    2j,
    float("nan"),
]


@pytest.mark.parametrize("value", STRANGE, ids=repr)
@pytest.mark.parametrize(("cls", "needed", "field", "_"), COUNTS)
def test_what_is_no_whole_number_is_refused_by_name(
    cls: type, needed: dict, field: str, _: int, value: object
) -> None:
    if value is None and (field == "num_kv_heads" or cls is CacheOptions):
        return  # has a meaning there
    with pytest.raises(UserError, match=f"{field}: .* given, a whole number"):
        cls(**{**needed, field: value})


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, np.bool_(True), "0.5", np.array([0.5]), torch.ones(1), [0.5]),
        *(1j, Decimal("0.5"), float("nan"), np.float32("nan"), np.float64("inf"), {}),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("cls", "needed", "field"), NUMBERS)
def test_what_is_no_number_is_refused_by_name(
    cls: type, needed: dict, field: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"{field}: .* given, a number in"):
        cls(**{**needed, field: value})


@pytest.mark.parametrize(
    "value", [1, 0, None, "true", np.array([True]), [True]], ids=repr
)
@pytest.mark.parametrize(("cls", "needed", "field"), FLAGS)
def test_what_is_no_flag_is_refused_by_name(
    cls: type, needed: dict, field: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"{field}: .* given, true or false is"):
        cls(**{**needed, field: value})


@pytest.mark.parametrize("value", [1, [], {}, np.array(["int8"]), b"int8"], ids=repr)
@pytest.mark.parametrize(("cls", "needed", "field", "_"), WORDS)
def test_what_is_no_word_is_refused_by_name(
    cls: type, needed: dict, field: str, _: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"{field}: .* given, one of"):
        cls(**{**needed, field: value})


@pytest.mark.parametrize("value", [1, None, ["mtla"], np.array(["mtla"])], ids=repr)
def test_a_name_that_is_no_word_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"attention: .* given, one of"):
        build_attention(value, 32, 4)


@pytest.mark.parametrize("conf", [[("down_rate", 2)], "down_rate", 2], ids=repr)
def test_settings_that_are_no_mapping_are_refused(conf: object) -> None:
    with pytest.raises(UserError, match=r"attention_conf: .* given, names and"):
        build_attention("mtla", 32, 4, conf=conf)


@given(st.sampled_from(INTEGERS), st.sampled_from(["mha", "gqa", "mla", "mtla"]))
def test_a_model_by_numbers_of_numpy_is_the_same(number: type, name: str) -> None:
    """Small types too: products of sizes must not be made in them."""
    conf = {key: number(value) for key, value in LATENT.items()}
    conf = conf if name in ("mla", "mtla") else {"head_dim": number(8)}
    plain = {key: int(value) for key, value in conf.items()}
    sizes = {"embed_dim": 120, "num_heads": 60, "num_layers": 1, "ffn_dim": 100}
    shapes = []
    for values, settings in ((sizes, plain), (_cast(sizes, number), conf)):
        config = DecoderConfig(90, **values, attention=name, attention_conf=settings)
        json.dumps(config.complete())
        with torch.device("meta"):
            decoder = DecoderOnlyTransformer(config)
        shapes.append({n: p.shape for n, p in decoder.named_parameters()})
    assert shapes[0] == shapes[1]


def _cast(sizes: dict[str, int], number: type) -> dict[str, object]:
    return {key: number(value) for key, value in sizes.items()}


def test_sizes_of_the_paper_are_counted_in_pythons_integers() -> None:
    narrow = complete_settings("mtla", np.uint8(240), np.uint8(1))
    assert narrow == complete_settings("mtla", 240, 1)
    with pytest.raises(UserError, match="embed_dim: '32' given"):
        build_attention("mtla", "32", 4)


@pytest.mark.parametrize("number", INTEGERS)
def test_calls_take_integers_of_numpy(number: type) -> None:
    """110 + 120 is more than an int8 holds, 110 * 120 more than an int16."""
    config = DecoderConfig(9, 32, num_layers=1, num_heads=4, attention_conf=LATENT)
    decoder = DecoderOnlyTransformer(config).eval()
    prompt, lengths = torch.randn(1, 110, 32), torch.tensor([110])
    sizes = {"max_tokens": 120, "beam": 3}
    states = [
        decoder.prefill(prompt, lengths, **each)
        for each in (sizes, _cast(sizes, number))
    ]
    assert states[0].nbytes == states[1].nbytes
    plain = (110, 120, 100, True, 8)
    assert decoder.cache_bytes(
        *(value if value is True else number(value) for value in plain)
    ) == decoder.cache_bytes(*plain)
    load = {"batch": 100, "beam": 110, "frames": 120, "tokens": 127, "itemsize": 4}
    assert decode_bytes(decoder, Load(**_cast(load, number))) == decode_bytes(
        decoder, Load(**load)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam": 0}, "beam: 0 given"),
        ({"beam": 2.0}, "beam: 2.0 given"),
        ({"beam": True}, "beam: True given"),
        ({"max_tokens": -1}, "max_tokens: -1 given"),
        ({"max_tokens": None}, "max_tokens: None given"),
        ({"prompt": np.zeros((1, 3, 32))}, "prompt: <class 'numpy.ndarray'> given"),
        ({"prompt_lens": [3]}, "prompt_lens: <class 'list'> given, a tensor"),
    ],
)
def test_calls_refuse_by_name(given: dict, message: str) -> None:
    config = DecoderConfig(9, 32, num_layers=1, num_heads=4, attention_conf=LATENT)
    decoder = DecoderOnlyTransformer(config)
    usual = {"prompt": torch.zeros(1, 3, 32), "prompt_lens": torch.tensor([3])}
    with pytest.raises(UserError, match=message):
        decoder.prefill(**{**usual, "max_tokens": 4, "beam": 2, **given})

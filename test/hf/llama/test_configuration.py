"""Settings in numbers of NumPy and torch: the same configuration as in Python's own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAConfig
from espnet_mtla.hf.llama.configuration import rope_settings
from test.support.tiny_llama import SIZES, tiny, tokens


@pytest.mark.parametrize("number", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_sizes_of_any_library(number) -> None:
    plain = {**SIZES, "down_rate": 2, "pad_token_id": 0, "eos_token_id": [1, 2]}
    values = {k: number(v) if isinstance(v, int) else v for k, v in plain.items()}
    values["eos_token_id"] = [number(1), number(2)]
    config = LlamaMTLAConfig(**values)
    assert config.to_dict() == LlamaMTLAConfig(**plain).to_dict()
    assert LlamaMTLAConfig(**config.to_dict()).to_json_string(use_diff=False)


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int32, torch.tensor])
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_rotary_settings_of_any_library(number, place: str) -> None:
    scaling = {"rope_type": "linear", "rope_theta": number(500), "factor": number(4)}
    before = dict(scaling)
    config = LlamaMTLAConfig(**SIZES, **{place: scaling})
    assert scaling == before  # the caller's settings are not changed
    plain = {"rope_type": "linear", "rope_theta": 500, "factor": 4}
    assert config.to_dict() == LlamaMTLAConfig(**SIZES, **{place: plain}).to_dict()
    assert config.to_json_string()


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int32, torch.tensor])
def test_rotary_base_of_any_library(number) -> None:
    config = LlamaMTLAConfig(**SIZES, rope_theta=number(500))
    assert config.to_dict() == LlamaMTLAConfig(**SIZES, rope_theta=500).to_dict()
    assert config.to_json_string()


@pytest.mark.parametrize("array", [np.array, np.float32, torch.tensor, list, tuple])
def test_rotary_frequencies_of_any_library(array, tmp_path) -> None:
    frequencies = [1.0, 0.25]
    model = tiny(2, rope_frequencies=array(frequencies))
    model.save_pretrained(tmp_path)
    again = LlamaMTLAConfig.from_pretrained(tmp_path)
    assert again.rope_frequencies == frequencies
    angles = model.model.layers[0].self_attn.angles(torch.tensor([[3]]), torch.float64)
    assert angles.tolist() == [[[3.0, 0.75]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": np.float32(0)}, "rope_theta: 0.0 given, a number > 0"),
        ({"rope_theta": True}, "rope_theta: True given, a number > 0"),
        ({"rope_theta": float("inf")}, "rope_theta: inf given, a number > 0"),
        ({"rope_frequencies": [True, 1.0]}, r"rope_frequencies: \[True, 1.0\] given"),
        (
            {"rope_frequencies": np.array([np.nan, 1])},
            r"rope_frequencies: \[nan, 1.0\]",
        ),
    ],
)
def test_numbers_that_are_no_rotation_are_named(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LlamaMTLAConfig(**SIZES, **change)


def test_rotary_settings_have_several_homes_or_none() -> None:
    """Mistral of Transformers 4 has a base alone."""
    scaling = {"type": "linear", "factor": 2.0}
    homes = (
        {"rope_theta": 5.0},
        {"rope_theta": 5.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
    )
    for home in homes:
        expected = {"rope_type": "default", "rope_theta": 5.0}
        assert rope_settings(SimpleNamespace(**home)) == expected
    scaled = rope_settings(SimpleNamespace(rope_theta=5.0, rope_scaling=scaling))
    assert (scaled["rope_type"], scaled["factor"]) == ("linear", 2.0)


def test_shifted_chunks_are_refused() -> None:
    with pytest.raises(UserError, match="phase: the layers of a LlamaMTLA share"):
        LlamaMTLAConfig(phase=True)
    with pytest.raises(UserError, match="raw_window: 4 given, 0 without a hyper_net"):
        LlamaMTLAConfig(down_rate=1, hyper_network=False, raw_window=4)


def test_attention_weights_of_a_raw_window_are_refused() -> None:
    model = tiny(2, raw_window=4)
    with pytest.raises(UserError, match="raw_window: attention weights"):
        model(tokens(1, 5), output_attentions=True)

"""A loaded model equals the saved one, non-persistent buffers included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from espnet_mtla.hf import LlamaMTLAForCausalLM, LlamaMTLAModel
from test.support.all_tensors import poison, tensors
from test.support.tiny_llama import tiny, tokens

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0},
        "original_max_position_embeddings": 32,
    },
    "llama3": {
        **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 32,
    },
}
WAYS = {
    "plain": {},
    "cpu": {"device_map": "cpu"},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}


def numbers(model: LlamaMTLAForCausalLM) -> list[tuple[object, float]]:
    """Return the rotary frequencies of each layer, which checkpoints do not contain."""
    layers = getattr(model, "model", model).layers
    attentions = [layer.self_attn for layer in layers]
    return [(one.rope_frequencies, one.rope_scale) for one in attentions]


def logits(model: LlamaMTLAForCausalLM) -> Tensor:
    with torch.no_grad():
        return model(tokens(2, 9), use_cache=False)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rope", ROPES)
def test_every_way_to_load(rope, way, tmp_path, monkeypatch) -> None:
    model = tiny(dtype=torch.float32, rope_parameters=ROPES[rope])
    model.save_pretrained(tmp_path)
    poison(monkeypatch)
    loaded = LlamaMTLAForCausalLM.from_pretrained(tmp_path, **WAYS[way]).eval()
    model = copy.deepcopy(model).to(WAYS[way].get("dtype", torch.float32))
    assert numbers(loaded) == numbers(model)
    expected, found = dict(tensors(model)), dict(tensors(loaded))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    assert torch.isfinite(logits(loaded)).all()
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    "settings", [{}, {"hyper_network": False, "stride": 1}, {"kv_norm": "none"}]
)
def test_settings_without_weights(settings, tmp_path, monkeypatch) -> None:
    model = tiny(dtype=torch.float32, **settings)
    model.save_pretrained(tmp_path)
    poison(monkeypatch)
    loaded = LlamaMTLAForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))


def test_built_on_the_meta_device(tmp_path, monkeypatch) -> None:
    model = tiny(dtype=torch.float32, rope_parameters=ROPES["yarn"])
    poison(monkeypatch)
    with torch.device("meta"):
        empty = LlamaMTLAForCausalLM(model.config)
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(model.state_dict())
    assert torch.equal(logits(empty), logits(model))
    model.save_pretrained(tmp_path)
    bare = LlamaMTLAModel.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(bare), logits(model.model))

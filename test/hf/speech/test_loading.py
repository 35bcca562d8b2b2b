"""A model that was loaded holds what was saved, to the last tensor behind it."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq
from test.all_tensors import poison, tensors
from test.hf_speech.tiny_recipes import RECIPES, noise, tiny

WAYS = {
    "plain": {},
    "cpu": {"device_map": "cpu"},
    "whole": {"device_map": {"": "cpu"}},
    "float32": {"dtype": torch.float32},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}


def check_same(loaded: MTLAForSpeechSeq2Seq, model: MTLAForSpeechSeq2Seq) -> None:
    """The same tensors everywhere, and from them the same logits and the same text."""
    expected, found = dict(tensors(model)), dict(tensors(loaded))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    sound, tokens = noise(samples=20000), torch.tensor([[10, 3, 4], [10, 5, 6]])
    with torch.no_grad():
        logits = [m(sound, decoder_input_ids=tokens).logits for m in (loaded, model)]
    assert torch.isfinite(logits[0]).all()
    # Rounding: a transposed matrix is loaded as a contiguous one.
    bound = {"float64": 1e-9, "float32": 1e-4}.get(loaded.decoder_dtype(), 0.1)
    torch.testing.assert_close(*logits, rtol=0, atol=bound)
    if loaded.decoder_dtype() != "float64":
        assert torch.equal(loaded.generate(sound), model.generate(sound))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_part(recipe, tmp_path, monkeypatch) -> None:
    model = tiny(**RECIPES[recipe])
    model.save_pretrained(tmp_path)
    poison(monkeypatch)
    check_same(MTLAForSpeechSeq2Seq.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recipe", ["fbank_global_mvn", "abs_pos", "default"])
def test_every_way_to_load(recipe, way, tmp_path, monkeypatch) -> None:
    model = tiny(**RECIPES[recipe])
    model.save_pretrained(tmp_path)
    poison(monkeypatch)
    loaded = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path, **WAYS[way])
    dtype = WAYS[way].get("dtype", torch.float32)
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    check_same(loaded, model)


@pytest.mark.parametrize("recipe", ["fbank_global_mvn", "abs_pos", "default"])
def test_built_on_the_meta_device(recipe, monkeypatch) -> None:
    model = tiny(**RECIPES[recipe])
    poison(monkeypatch)
    with torch.device("meta"):
        empty = MTLAForSpeechSeq2Seq(model.config)
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(model.state_dict())
    check_same(empty, model)

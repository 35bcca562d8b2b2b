"""A loaded speech model equals the saved one, non-persistent buffers included."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq
from test.support.all_tensors import poison
from test.support.tiny_recipes import RECIPES, check_same, tiny

WAYS = {
    "plain": {},
    "cpu": {"device_map": "cpu"},
    "whole": {"device_map": {"": "cpu"}},
    "float32": {"dtype": torch.float32},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}


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

"""Encoders of which not all is needed: early layers, and weights that follow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.pretrained import TransformersFrontend
from test.support.tiny_encoders import NAMES, make_encoder, noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: make_encoder(root / name, name) for name in NAMES}


def count_calls(layers) -> list[int]:
    """A list to which each call of a layer will append the layer's number."""
    calls: list[int] = []
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, n=number: calls.append(n))
    return calls


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_layers_after_the_chosen_one_are_not_computed(name: str, folders) -> None:
    """State n is the output of n layers; -1 also of the normalisation after them."""
    sound = noise([9000])[0][0]
    every = TransformersFrontend(str(folders[name]))
    width, states = every.width, every.to_store(sound)
    for layer, computed in ((0, 0), (1, 1), (-1, 2), (None, 2)):
        frontend = TransformersFrontend(str(folders[name]), layer)
        model = frontend._frozen[0].model
        calls = count_calls(getattr(model, "encoder", model).layers)
        stored = frontend.to_store(sound)
        assert calls == list(range(computed))
        if layer is not None:
            expected = states.unflatten(1, (3, width))[:, layer]
            torch.testing.assert_close(stored, expected, rtol=0, atol=0)


def test_an_early_layer_is_tuned_without_the_later_ones(folders) -> None:
    frontend = TransformersFrontend(str(folders["wavlm_large"]), 1, finetune=True)
    features, _ = frontend.train()(*noise([8000, 6000]))
    features.square().sum().backward()
    gradients = {n: p.grad is not None for n, p in frontend.named_parameters()}
    assert gradients["encoder.model.encoder.layers.0.attention.v_proj.weight"]
    assert not gradients["encoder.model.encoder.layers.1.attention.v_proj.weight"]


def test_only_weights_that_follow_may_be_missing(folders, tmp_path: Path) -> None:
    """A packed folder has a trained encoder's weights among those of the model."""
    for file in folders["whisper"].glob("*.json"):
        shutil.copy(file, tmp_path)
    folder = str(tmp_path)
    for settings in ({}, {"finetune": True}, {"weights_follow": True}):
        with pytest.raises(UserError, match=r"no model\.safetensors, the weights"):
            TransformersFrontend(folder, **settings)
    late = TransformersFrontend(folder, finetune=True, weights_follow=True)
    whole = TransformersFrontend(str(folders["whisper"]), finetune=True)
    late.load_state_dict(whole.state_dict())
    sound = noise([9000, 5000])
    torch.testing.assert_close(late.eval()(*sound), whole.eval()(*sound))

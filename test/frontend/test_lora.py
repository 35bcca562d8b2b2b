"""Adapters in a frozen encoder: what trains, what is saved, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.pretrained import TransformersFrontend
from espnet_mtla.lora import LoraSettings, add_lora
from test.support.tiny_encoders import NAMES, make_encoder, noise

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: make_encoder(root / name, name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_adapters_alone_train_and_are_saved(name: str, folders) -> None:
    folder = str(folders[name])
    frontend = TransformersFrontend(folder, lora={"rank": 2}).eval()
    plain = TransformersFrontend(folder)
    sound = noise([8000, 6000])
    # The second matrix of an adapter begins at zero.
    torch.testing.assert_close(frontend(*sound), plain(*sound), rtol=0, atol=1e-6)
    names = set(frontend.state_dict()) - {"weights"}
    assert names
    assert all(name.startswith("adapter.") and "lora_" in name for name in names)
    optimiser = torch.optim.SGD(frontend.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(2)
    before = {key: value.clone() for key, value in frontend.state_dict().items()}
    for _ in range(2):
        features, _ = frontend(*sound)
        optimiser.zero_grad()
        direction = torch.randn(features.shape, generator=generator)
        (features * direction).sum().backward()
        optimiser.step()
    after = frontend.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in names)
    base = dict(plain._frozen[0].model.named_parameters())
    for key, value in frontend._frozen[0].model.named_parameters():
        if "lora_" not in key:
            assert torch.equal(value, base[key.replace(".base_layer", "")]), key
    again = TransformersFrontend(folder, lora={"rank": 2})
    again.eval().load_state_dict(after)
    torch.testing.assert_close(again(*sound), frontend(*sound), rtol=0, atol=1e-6)
    assert not torch.allclose(again(*sound)[0], plain(*sound)[0], atol=1e-4)


def test_an_adapter_is_the_sum_of_the_formula(folders) -> None:
    """q_proj(x) + alpha / rank B A x."""
    frontend = TransformersFrontend(
        str(folders["whisper"]), lora={"rank": 2, "alpha": 6, "targets": ["q_proj"]}
    )
    layer = frontend._frozen[0].model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (
        a
        is frontend.adapter.layers.get_submodule("0.self_attn.q_proj")
        .lora_A["default"]
        .weight
    )
    torch.nn.init.normal_(b)
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 3 * x @ a.T @ b.T)


def test_a_copy_has_adapters_of_its_own(folders) -> None:
    frontend = TransformersFrontend(str(folders["whisper"]), lora={})
    other = copy.deepcopy(frontend)
    for value in other.adapter.parameters():
        torch.nn.init.normal_(value)
    sound = noise([8000])
    plain = TransformersFrontend(str(folders["whisper"]))
    torch.testing.assert_close(frontend(*sound), plain(*sound), rtol=0, atol=1e-6)
    assert not torch.allclose(other(*sound)[0], plain(*sound)[0], atol=1e-4)


def test_dropout_of_adapters_while_training(folders) -> None:
    frontend = TransformersFrontend(str(folders["whisper"]), lora={"dropout": 0.5})
    for value in frontend.adapter.parameters():
        torch.nn.init.normal_(value)
    sound = noise([8000])
    assert not torch.equal(frontend.train()(*sound)[0], frontend(*sound)[0])
    assert torch.equal(frontend.eval()(*sound)[0], frontend(*sound)[0])


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"targets": ["q_prj"]},
            r"targets: q_prj: no such linear layer; there are .*q_proj",
        ),
        ({"targets": ["conv1"]}, r"targets: conv1: no such linear layer"),
        ({"targets": "q_proj"}, r"targets: 'q_proj' given, a list needed"),
        ({"rank": 0}, r"rank: 0 given"),
        ({"alpha": 0}, r"alpha: 0 given"),
        ({"dropout": 1.0}, r"dropout: 1\.0 given"),
        ({"ranks": 4}, r"ranks: unknown"),
        (8, r" 8 given, settings needed"),
    ],
)
def test_wrong_settings_are_named(lora, message: str, folders) -> None:
    with pytest.raises(
        UserError, match=rf"^frontend_conf\.lora[.:]{message}"
    ) as caught:
        TransformersFrontend(str(folders["whisper"]), lora=lora)
    assert "\n" not in str(caught.value)


def test_layers_that_an_encoder_does_not_call_are_refused(folders) -> None:
    """WavLM's attention reads the weights of q_proj."""
    with pytest.raises(UserError, match=r"targets: q_proj: .*no effect; choose others"):
        TransformersFrontend(str(folders["wavlm_base"]), lora={"targets": ["q_proj"]})


def test_adapters_are_in_the_layers_that_are_computed(folders) -> None:
    """State 1 is the output of the first of two layers."""
    folder = str(folders["whisper"])
    both = TransformersFrontend(folder, lora={}).adapter
    first = TransformersFrontend(folder, layer=1, lora={}).adapter
    assert set(both.layers._modules) == {"0", "1"}
    assert set(first.layers._modules) == {"0"}
    with pytest.raises(UserError, match=r"targets: q_proj: .*, or a later layer"):
        TransformersFrontend(folder, layer=0, lora={})


def test_the_same_settings_as_of_other_parts(folders) -> None:
    """A missing alpha scales by 1, as in the option lora."""
    frontend = TransformersFrontend(str(folders["whisper"]), lora={"rank": 4})
    layer = frontend._frozen[0].model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 1.0}


def test_adapters_are_settings_of_the_front_end(folders) -> None:
    model = SimpleNamespace(frontend=TransformersFrontend(str(folders["whisper"])))
    with pytest.raises(UserError, match=r"lora\.frontend: give .* frontend_conf\.lora"):
        add_lora(model, {"frontend": {"rank": 2}})


def test_one_way_of_training_at_a_time(folders) -> None:
    with pytest.raises(UserError, match=r"finetune, lora: one of them"):
        TransformersFrontend(str(folders["whisper"]), finetune=True, lora={})


def test_targets_differ_by_model(folders) -> None:
    assert LoraSettings().targets == ()  # the encoder's own
    frontend = TransformersFrontend(str(folders["w2v_bert"]), lora={})
    assert any("linear_q" in name for name in frontend.state_dict())

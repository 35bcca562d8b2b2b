"""Versions of ESPnet: which are accepted, and what is made equal between them."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace

import pytest
import torch
from torch import Tensor, nn

from espnet_mtla import espnet
from espnet_mtla.errors import UserError
from espnet_mtla.espnet import quiet_import
from espnet_mtla.model import build
from espnet_mtla.model.components import build_encoder
from test.support.tiny_experiment import make_model


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Return a function that pretends that a version is installed."""

    def pretend(version: str) -> None:
        monkeypatch.setattr(espnet, "version", lambda _: version)
        espnet.espnet_version.cache_clear()
        espnet.check_version.cache_clear()

    yield pretend
    monkeypatch.undo()
    espnet.espnet_version.cache_clear()
    espnet.check_version.cache_clear()


def imports() -> None:
    """Run what precedes every import of ESPnet's parts."""
    with quiet_import():
        pass


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("202509", "espnet 202509: too old, 202511 or newer is needed: utils/install"),
        ("10.7a1", "espnet 10.7a1: not a release; 202511 to 202611 are tested"),
    ],
)
def test_an_espnet_that_cannot_work_is_refused_by_name(install, version, message):
    install(version)
    with pytest.raises(UserError, match=message):
        imports()


@pytest.mark.parametrize("version", ["202511", "202609.post1", "202611"])
def test_a_tested_espnet_is_nothing_to_talk_about(install, caplog, version):
    install(version)
    imports()
    assert caplog.records == []


def test_an_espnet_newer_than_tested_is_said_once(install, caplog):
    install("202702")
    with caplog.at_level(logging.WARNING):
        imports()
        imports()
    assert [record.getMessage() for record in caplog.records] == [
        "espnet 202702 is newer than 202611, the newest version tested here"
    ]


def test_every_initialisation_offered_is_one_that_espnet_knows():
    args = Namespace()
    for args.init in build.INITS:
        build.initialise(args, nn.Linear(3, 3))


def test_an_initialisation_that_espnet_lacks_is_refused_by_name():
    with pytest.raises(UserError, match="init: 'orthogonal' is not in this version"):
        build.initialise(Namespace(init="orthogonal"), nn.Linear(3, 3))


def test_a_trained_model_loads_whatever_its_weights_began_with(tmp_path):
    """``init: chainer`` of a model trained with 202511 is unknown to 202611."""
    folder = make_model(tmp_path / "exp")
    config = folder / "config.yaml"
    config.write_text(f"{config.read_text()}\ninit: of_another_version\n")
    build.load_model(config, folder / "model.pth")
    with pytest.raises(UserError, match="init: 'of_another_version'"):
        build.load_model(config)


def conformer(input_layer: str = "conv2d") -> nn.Module:
    settings = {"output_size": 8, "num_blocks": 1, "attention_heads": 2}
    settings |= {"linear_units": 8, "input_layer": input_layer}
    return build_encoder(Namespace(encoder="conformer", encoder_conf=settings), 20)


def renamed(states: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in states.items()}


@pytest.mark.parametrize("layer", ["conv2d", "conv2d6"])
def test_parameters_have_the_names_of_202511_and_load_under_those_of_202611(layer):
    encoder = conformer(layer)
    states = encoder.state_dict()
    assert {"embed.out.0.weight", "embed.out.0.bias"} <= set(states)
    assert set(dict(encoder.named_parameters())) <= set(states)
    assert "embed.out.weight" not in states
    for new in ("embed.out.0.", "embed.out."):
        other = copy.deepcopy(encoder)
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        other.load_state_dict(renamed(states, "embed.out.0.", new))
        for name, value in other.state_dict().items():
            assert value.equal(states[name]), name


def test_a_missing_parameter_is_still_missed():
    states = conformer().state_dict()
    del states["embed.out.0.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*embed\.out\.0\.weight"):
        conformer().load_state_dict(states)


def test_renaming_changes_no_number():
    """Subsampling by hand: convolutions, the linear layer, times sqrt(D)."""
    encoder = conformer().eval()
    frames = torch.randn(2, 30, 20)
    embedded = encoder.embed.conv(frames.unsqueeze(1))
    flat = embedded.transpose(1, 2).flatten(2)
    linear = encoder.embed.out[0]
    expected = (flat @ linear.weight.T + linear.bias) * 8**0.5
    (output, _), mask = encoder.embed(frames, torch.ones(2, 1, 30, dtype=torch.bool))
    torch.testing.assert_close(output, expected)
    assert mask.shape == (2, 1, output.size(1))

"""What trains, how fast, and what checkpoints hold of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from espnet_mtla.errors import UserError
from espnet_mtla.lora import find_targets, merge_lora
from espnet_mtla.model import checkpoint
from espnet_mtla.model.build import load_model
from espnet_mtla.recognise.options import DecodeOptions
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from espnet_mtla.task import launch
from espnet_mtla.task.average import Criterion, average
from espnet_mtla.task.optimiser import parameter_groups
from espnet_mtla.task.tasks import task_class
from test.support.toy_corpus import Toy

SPEECH = {"normalize": "utterance_mvn", "model_conf": {"ctc_weight": 0.0}}
LORA = {"decoder": {"rank": 2, "alpha": 6, "dropout": 0.1, "targets": ["wq", "wo"]}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy(tmp_path_factory.mktemp("toy"))
    toy("--collect_stats", **SPEECH)
    return toy


def build(toy: Toy, **changes: object):
    """The model that would be trained, and its options."""
    file = toy.config(**{**SPEECH, **changes})
    options = ["--token_list", str(toy.tokens), "--output_dir", str(toy.folder)]
    args = launch.parse(launch.read_config(file), options)
    return task_class("asr").build_model(args), args


def train(toy: Toy, output: Path, epochs: int, **changes: object) -> None:
    toy("--output_dir", output, "--max_epoch", epochs, **{**SPEECH, **changes})


def names(folder: Path, epoch: int = 1) -> set[str]:
    return set(checkpoint.load(folder / f"{epoch}epoch.pth"))


FREEZING = {
    "projector alone": {"freeze_param": ["encoder", "decoder"]},
    "adapters": {"lora": LORA, "freeze_param": ["encoder"]},
}


@pytest.mark.parametrize("what", FREEZING)
def test_checkpoints_hold_what_trains_and_the_rest_once(
    toy: Toy, tmp_path: Path, what: str
) -> None:
    changes = FREEZING[what]
    train(toy, tmp_path / "exp", 2, **changes)
    kept, frozen = names(tmp_path / "exp"), checkpoint.load(tmp_path / "exp/frozen.pth")
    assert not kept & set(frozen)
    model, _ = build(toy, **changes)
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    assert kept | set(frozen) == {*parameters, *buffers}
    trained = {name for name in kept if name not in buffers}
    assert {name.split(".")[0] for name in trained} == (
        {"projector", "decoder"} if "lora" in changes else {"projector"}
    )
    assert all("lora_" in name for name in trained if name.startswith("decoder."))
    whole = checkpoint.load(tmp_path / "exp" / "checkpoint.pth")["model"]
    assert set(whole) == kept
    average(tmp_path / "exp", Criterion.parse("valid.acc.max"), 2)
    one, two = (checkpoint.load(tmp_path / "exp" / f"{n}epoch.pth") for n in (1, 2))
    mean = checkpoint.load(tmp_path / "exp" / "model.pth")
    assert set(mean) == kept | set(frozen)
    key = "projector.layers.0.weight"
    torch.testing.assert_close(mean[key], (one[key] + two[key]) / 2)
    assert not torch.equal(one[key], two[key])
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("config.yaml", "model.pth"):
        shutil.copy(tmp_path / "exp" / name, alone)
    model, _ = load_model(alone / "config.yaml", alone / "model.pth")
    state = model.state_dict()
    for name, value in frozen.items():
        if "base_layer" not in name:
            assert torch.equal(state[name], value), name
    load_model(tmp_path / "exp/config.yaml", tmp_path / "exp/1epoch.pth")


@pytest.mark.parametrize("what", FREEZING)
def test_resumed_is_straight(toy: Toy, tmp_path: Path, what: str) -> None:
    """Also if the frozen parts would begin from other values today."""
    changes = FREEZING[what]
    train(toy, tmp_path / "straight", 2, **changes)
    train(toy, tmp_path / "resumed", 1, **changes)
    before = (tmp_path / "resumed" / "frozen.pth").read_bytes()
    train(toy, tmp_path / "resumed", 2, **changes)
    assert (tmp_path / "resumed" / "frozen.pth").read_bytes() == before
    one, two = (
        checkpoint.load(tmp_path / folder / "2epoch.pth")
        for folder in ("straight", "resumed")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_everything_trains_as_before(toy: Toy, tmp_path: Path) -> None:
    train(toy, tmp_path / "exp", 1)
    assert not (tmp_path / "exp" / "frozen.pth").exists()
    model, _ = build(toy)
    assert names(tmp_path / "exp") == set(model.state_dict())


def test_adapters_change_what_the_model_computes_and_merge_exactly(
    toy: Toy, tmp_path: Path
) -> None:
    output = tmp_path / "exp"
    train(toy, output, 2, lora=LORA, optim_conf={"lr": 0.05})
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["lora"] == LORA
    unmerged, _ = build(toy, lora=LORA)
    states = checkpoint.load_all(output / "2epoch.pth")
    unmerged.load_state_dict(states)
    merged, args = load_model(output / "config.yaml", output / "2epoch.pth")
    assert args.lora == {}
    assert type(merged.decoder.layers[0].attention.wq) is nn.Linear
    layer = "decoder.layers.0.attention.wq"
    parts = {name.removeprefix(f"{layer}."): v for name, v in states.items()}
    product = parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
    assert product.abs().max() > 1e-3
    torch.testing.assert_close(
        merged.get_submodule(layer).weight,
        parts["base_layer.weight"] + 6 / 2 * product,
    )
    prompt, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    tokens = torch.tensor([[4, 2, 3], [4, 3, 2]])
    with torch.no_grad():
        logits = [
            model.eval().decoder(prompt, lengths, tokens)
            for model in (unmerged, merged)
        ]
    torch.testing.assert_close(*logits)


def test_a_packed_model_has_merged_adapters(toy: Toy, tmp_path: Path) -> None:
    output = tmp_path / "exp"
    train(toy, output, 1, lora=LORA)
    average(output, Criterion.parse("valid.acc.max"), 1)
    pack(output, tmp_path / "packed", DecodeOptions(), Card("me/it"))
    config = yaml.safe_load((tmp_path / "packed" / "config.yaml").read_text())
    assert config["lora"] == {}
    states = checkpoint.load(tmp_path / "packed" / "model.safetensors")
    assert not any("lora_" in name or "base_layer" in name for name in states)


def test_merged_weights_are_recognised(toy: Toy, tmp_path: Path) -> None:
    """The file of a model that was merged, under the configuration with adapters."""
    output = tmp_path / "exp"
    train(toy, output, 1, lora=LORA)
    merged, _ = load_model(output / "config.yaml", output / "1epoch.pth")
    (output / "frozen.pth").unlink()
    torch.save(merged.state_dict(), output / "model.pth")
    again, _ = load_model(output / "config.yaml", output / "model.pth")
    for name, value in merged.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_unmerged_weights_need_their_settings(toy: Toy, tmp_path: Path) -> None:
    output = tmp_path / "exp"
    train(toy, output, 1, lora=LORA)
    config = yaml.safe_load((output / "config.yaml").read_text())
    for lora, words in (
        ({}, "has unmerged adapters, and config.yaml has no lora"),
        ({"decoder": {"rank": 3, "targets": ["wq", "wo"]}}, "does not fit"),
    ):
        (output / "config.yaml").write_text(yaml.safe_dump({**config, "lora": lora}))
        with pytest.raises(UserError, match=words):
            load_model(output / "config.yaml", output / "1epoch.pth")


BAD = {
    "an unknown target": (
        {"lora": {"decoder": {"targets": ["q_proj"]}}},
        r"lora\.decoder\.targets: q_proj: no such linear layer; there are 0, 3, ",
    ),
    "an unknown part": ({"lora": {"ctc": {}}}, "lora: ctc: no such part; frontend"),
    "an unknown key": (
        {"lora": {"decoder": {"r": 3}}},
        r"lora\.decoder\.r: unknown",
    ),
    "no list": (
        {"lora": {"decoder": {"targets": "wq"}}},
        r"lora\.decoder\.targets: 'wq' given, a list needed",
    ),
    "a rank of zero": ({"lora": {"decoder": {"rank": 0}}}, r"lora\.decoder\.rank: 0"),
    "a part without layers": (
        {"lora": {"frontend": {}}},
        r"lora\.frontend: it has no linear layers",
    ),
    "ESPnet's adapters": (
        {"use_adapter": True},
        r"use_adapter \(ESPnet\): name",
    ),
    "an unknown frozen part": (
        {"freeze_param": ["encodr"]},
        "freeze_param: encodr: no such part; there are decoder, encoder, projector",
    ),
    "nothing": (
        {"freeze_param": ["encoder", "projector", "decoder"]},
        "all parameters are frozen",
    ),
    "the rate of an unknown part": (
        {"lr_scale": {"decodr": 0.1}},
        r"lr_scale\.decodr: no parameters that train",
    ),
    "a frozen part's rate": (
        {"lr_scale": {"decoder": 0.1}, "freeze_param": ["decoder"]},
        r"lr_scale\.decoder: no parameters that train",
    ),
    "no rate": (
        {"lr_scale": {"decoder": 0}},
        r"lr_scale\.decoder: 0 given",
    ),
    "two ways": (
        {"lr_scale": {"decoder": 0.1}, "exclude_weight_decay": True},
        "lr_scale and exclude_weight_decay",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_refused(toy: Toy, tmp_path: Path, what: str) -> None:
    changes, words = BAD[what]
    with pytest.raises(UserError, match=words):
        train(toy, tmp_path / "exp", 1, **changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_a_checkpoint_that_is_a_pickle_is_refused(toy: Toy, tmp_path: Path) -> None:
    train(toy, tmp_path / "exp", 1, lora=LORA)
    torch.save({"decoder": Path("/")}, tmp_path / "exp" / "frozen.pth")
    with pytest.raises(UserError, match=r"frozen\.pth: holds objects beyond tensors"):
        load_model(tmp_path / "exp/config.yaml", tmp_path / "exp/1epoch.pth")


@pytest.mark.parametrize("target", ["decoder:decoder", "decoder:decoder.layers", ""])
def test_initial_weights_of_an_adapted_part_are_refused(
    toy: Toy, tmp_path: Path, target: str
) -> None:
    train(toy, tmp_path / "first", 1)
    spec = f"{tmp_path}/first/1epoch.pth:{target}".rstrip(":")
    with pytest.raises(UserError, match=r"init_param: .*: decoder has adapters"):
        train(toy, tmp_path / "exp", 1, lora=LORA, init_param=[spec])
    spec = f"{tmp_path}/first/1epoch.pth:encoder:encoder"
    train(toy, tmp_path / "exp", 1, lora=LORA, init_param=[spec])


def test_rates_follow_the_longest_name(toy: Toy) -> None:
    model, args = build(
        toy,
        lr_scale={"decoder": 0.1, "decoder.embedding": 0.5},
        scheduler="warmuplr",
        scheduler_conf={"warmup_steps": 4},
    )
    (optimiser,) = task_class("asr").build_optimizers(args, model)
    rates = {
        id(value): group["lr"]
        for group in optimiser.param_groups
        for value in group["params"]
    }
    expected = {"decoder.embedding.weight": 5e-4, "decoder.norm.weight": 1e-4}
    expected["projector.layers.0.bias"] = 1e-3
    for name, rate in expected.items():
        assert rates[id(model.get_parameter(name))] == pytest.approx(rate), name
    assert len(rates) == len(list(model.parameters()))


def test_a_scaled_rate_moves_a_part_less(toy: Toy, tmp_path: Path) -> None:
    """With one step of SGD, a part moves by its rate times the gradient."""
    moved = {}
    one = {"optim": "sgd", "optim_conf": {"lr": 0.1}, "batch_size": 7, "grad_clip": 1e9}
    for name, scales in (("plain", {}), ("scaled", {"decoder": 0.25})):
        train(toy, tmp_path / name, 1, lr_scale=scales, **one)
        moved[name] = checkpoint.load(tmp_path / name / "1epoch.pth")
    steps = []
    for key in ("decoder.norm.weight", "decoder.norm.bias"):
        begin = torch.ones(8) if key.endswith("weight") else torch.zeros(8)
        steps.append((moved["plain"][key] - begin, moved["scaled"][key] - begin))
    for plain, scaled in steps:
        torch.testing.assert_close(scaled, plain * 0.25, rtol=1e-3, atol=1e-7)
    key = "projector.layers.0.weight"
    torch.testing.assert_close(moved["plain"][key], moved["scaled"][key])


def test_groups_leave_frozen_parameters_out() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["a"].weight.requires_grad_(False)
    rest, own = parameter_groups(model, {"a": 0.5}, 1.0)
    assert [value is model["a"].bias for value in own["params"]] == [True]
    assert own["lr"] == 0.5 and len(rest["params"]) == 2


def test_targets_by_last_words() -> None:
    part = nn.ModuleDict({"attention": nn.ModuleDict({"wq": nn.Linear(1, 1)})})
    part["ffn"] = nn.ModuleDict({"wq": nn.Linear(1, 1)})
    assert find_targets(part, [], "x") == ["attention.wq"]
    assert find_targets(part, ["wq"], "x") == ["attention.wq", "ffn.wq"]
    assert find_targets(part, ["ffn.wq"], "x") == ["ffn.wq"]
    merge_lora(part)  # a model without adapters stays as it is
    assert type(part["ffn"]["wq"]) is nn.Linear

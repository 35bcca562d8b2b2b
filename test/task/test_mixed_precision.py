"""``use_amp`` on a CPU: products in bfloat16; features, losses and weights are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from espnet_mtla.model import checkpoint
from espnet_mtla.task import launch
from espnet_mtla.task.tasks import task_class
from espnet_mtla.task.trainer import mixed_precision
from test.support.tiny_encoders import make_encoder
from test.support.toy_corpus import Toy

DECODER = {"embed_dim": 8, "num_layers": 2, "num_heads": 2, "ffn_dim": 16}
PLAIN = {"normalize": "utterance_mvn", "model_conf": {"ctc_weight": 0.3}}


def build(toy: Toy, **changes: object) -> nn.Module:
    file = toy.config(**{**PLAIN, **changes})
    options = ["--token_list", str(toy.tokens), "--output_dir", str(toy.folder)]
    args = launch.parse(launch.read_config(file), options)
    torch.manual_seed(0)
    return task_class("asr").build_model(args)


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "speech": 0.1 * torch.randn(3, 8000),
        "speech_lengths": torch.tensor([8000, 7000, 5000]),
        "text": torch.randint(2, 5, (3, 4)),
        "text_lengths": torch.tensor([4, 3, 2]),
    }


def products(model: nn.Module, amp: bool) -> tuple[torch.Tensor, dict[str, set]]:
    """Loss after a step forward and back, and the dtypes of linear layers' outputs."""
    dtypes: dict[str, set] = {}

    def record(name: str):
        def hook(*call: torch.Tensor) -> None:  # module, inputs, output
            dtypes.setdefault(name.split(".")[0], set()).add(call[-1].dtype)

        return hook

    hooks = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with mixed_precision(model, amp):
        loss = model(**batch())[0]
        loss.sum().backward()
    for hook in hooks:
        hook.remove()
    return loss, dtypes


@pytest.mark.parametrize("attention", ["mha", "mqa", "mla", "mtla"])
def test_products_are_bfloat16_and_the_rest_is_float32(
    toy: Toy, attention: str
) -> None:
    model = build(toy, decoder_conf={**DECODER, "attention": attention}).eval()
    exact, dtypes = products(model, amp=False)
    assert set().union(*dtypes.values()) == {torch.float32}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    features = model.extract_feats(batch()["speech"], batch()["speech_lengths"])[0]
    seen = []
    hook = model.normalize.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    loss, dtypes = products(model, amp=True)
    hook.remove()
    assert dtypes["encoder"] == dtypes["decoder"] == {torch.bfloat16}
    assert torch.equal(seen[0], features)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        near = torch.nn.functional.cosine_similarity(
            parameter.grad.flatten(), gradients[name].flatten(), 0
        )
        assert near > 0.9 or gradients[name].norm() < 1e-3, name


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_sums_of_layers_keep_their_precision(toy: Toy, norm: str) -> None:
    """Where the prompt runs through the layers, too; it comes from the projector."""
    decoder = {
        **{**DECODER, "attention": "mtla"},
        **{"norm": norm, "prompt_mode": "recompute"},
    }
    model = build(toy, decoder_conf=decoder)
    seen = set()
    for layer in model.decoder.layers:
        layer.ffn_norm.register_forward_pre_hook(lambda _, x: seen.add(x[0].dtype))
    products(model, amp=True)
    assert seen == {torch.float32}


def test_the_model_is_as_before_afterwards(toy: Toy) -> None:
    model = build(toy)
    with pytest.raises(ZeroDivisionError), mixed_precision(model, True):
        assert "forward" in vars(model)
        raise ZeroDivisionError
    assert "forward" not in vars(model)
    assert model.forward.__func__ is type(model).forward


@pytest.mark.parametrize("trains", [{}, {"finetune": True}, {"lora": {"rank": 2}}])
def test_an_encoder_in_the_frontend_takes_part_if_it_trains(
    toy: Toy, tmp_path: Path, trains: dict[str, object]
) -> None:
    """Otherwise its states equal those that stage dump stores."""
    folder = make_encoder(tmp_path / "whisper", "whisper")
    frontend = {"model": str(folder), "layer": -1, **trains}
    model = build(
        toy,
        frontend="transformers",
        frontend_conf=frontend,
        encoder=None,
        encoder_conf={},
        model_conf={"ctc_weight": 0.0},
        decoder_conf={**DECODER, "attention": "mtla"},
    )
    reader = model.frontend
    trained = trains.get("finetune")
    encoder = reader.encoder if trained else reader._frozen[0]
    seen = set()
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *x: seen.add(x[2].dtype))
    mels = []
    encoder.model.conv1.register_forward_pre_hook(lambda _, x: mels.append(x[0]))
    with mixed_precision(model, False):
        model(**batch())
    with mixed_precision(model, True):
        loss = model(**batch())[0]
    assert (torch.bfloat16 in seen) == bool(trains)
    half = len(mels) // 2
    assert all(map(torch.equal, mels[:half], mels[half:]))
    if trains:
        loss.sum().backward()


def test_training_with_use_amp(toy: Toy, tmp_path: Path) -> None:
    toy("--collect_stats", **PLAIN)
    for name, amp in (("exact", False), ("amp", True)):
        toy("--output_dir", tmp_path / name, "--use_amp", amp, **PLAIN)
    exact, amp = (
        checkpoint.load(tmp_path / name / "checkpoint.pth")["model"]
        for name in ("exact", "amp")
    )
    assert {value.dtype for value in amp.values()} == {v.dtype for v in exact.values()}
    assert any(not torch.equal(exact[name], amp[name]) for name in exact)
    for name, value in exact.items():
        if value.is_floating_point():
            assert torch.allclose(value, amp[name], atol=0.02), name

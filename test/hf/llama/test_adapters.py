"""Adapters of peft on every layer, and weights that accelerate keeps elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAForCausalLM
from espnet_mtla.hf.convert.build import Target, convert
from test.support.tiny_llama import cache_of, llama, tiny, tokens

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")  # PEFT's own

LAYERS = ["wq", "wkv_a", "wkv_b", "wo", "fc_c", "fc_p"]
LAYERS += ["gate_proj", "up_proj", "down_proj"]
FEED = {"feedforward_modules": ["wkv_b", "down_proj"]}
ADAPTERS: dict[str, tuple[str, dict[str, object]]] = {
    "lora": ("LoraConfig", {"r": 3}),
    "all-linear": ("LoraConfig", {"r": 3, "target_modules": "all-linear"}),
    "rslora": ("LoraConfig", {"r": 3, "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 3, "use_dora": True}),
    "lokr": ("LoKrConfig", {"r": 3}),
    "ia3": ("IA3Config", FEED),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 2, "target_modules": ["wkv_b"]}),
}


def adapt(model: nn.Module, kind: str, seed: int = 1, **more: object) -> nn.Module:
    """The model with adapters that do something, in float64."""
    name, settings = ADAPTERS[kind]
    settings = {"target_modules": LAYERS, **settings, **more}
    config = getattr(peft, name)(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(model, config)
    disturb(model, seed)
    return model


@torch.no_grad()
def disturb(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.double()
            parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def in_steps(model: nn.Module, batch: Tensor) -> Tensor:
    """Logits of a prompt of four tokens and of steps behind it."""
    out = model(batch[:, :4], use_cache=True)
    logits = [out.logits]
    for t in range(4, batch.size(1)):
        out = model(batch[:, t : t + 1], cache=cache_of(out))
        logits.append(out.logits)
    return torch.cat(logits, 1)


def same(a: Tensor, b: Tensor) -> None:
    # Llama's norms go through float32.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_adapter_trains_steps_and_merges(kind: str, stride: int) -> None:
    batch, base = tokens(2, 11), tiny(stride)
    plain = base(batch).logits
    model = adapt(base, kind).train()
    loss = model(batch, labels=batch).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.any(), name
    whole = model.eval()(batch).logits
    assert (whole - plain).abs().max() > 0.1
    same(in_steps(model, batch), whole)
    with model.disable_adapter():
        assert torch.equal(model(batch).logits, plain)
        same(in_steps(model, batch), plain)
    greedy = model.generate(input_ids=batch, max_new_tokens=5, do_sample=False)
    merged = model.merge_and_unload()
    assert type(merged.model.layers[0].self_attn.wkv_b) is nn.Linear
    same(merged(batch).logits, whole)
    again = merged.generate(batch, max_new_tokens=5, do_sample=False)
    assert torch.equal(greedy, again)


def test_gradients_of_a_lora_are_those_of_its_product() -> None:
    batch, base = tokens(2, 9), tiny(2)
    model = adapt(base, "lora", target_modules=["wkv_b"], lora_alpha=6)
    twin = adapt(tiny(2), "lora", target_modules=["wkv_b"], lora_alpha=6)
    twin = twin.merge_and_unload().requires_grad_()
    for each in (model, twin):
        each(batch, labels=batch).loss.backward()
    for layer, plain in zip(
        model.base_model.model.model.layers, twin.model.layers, strict=True
    ):
        lora = layer.self_attn.wkv_b
        a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        whole = 2 * plain.self_attn.wkv_b.weight.grad  # alpha over rank
        torch.testing.assert_close(b.grad, whole @ a.mT, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(a.grad, b.mT @ whole, rtol=1e-5, atol=1e-7)


def test_several_adapters_take_turns_and_add_up() -> None:
    batch, model = tokens(2, 9), adapt(tiny(2), "lora")
    second = peft.LoraConfig(r=2, target_modules=["wkv_b"], task_type="CAUSAL_LM")
    model.add_adapter("second", second)
    model.base_model.set_adapter(["default", "second"])
    disturb(model, 2)
    model.eval()
    logits = []
    for active in ("default", "second", ["default", "second"]):
        model.base_model.set_adapter(active)
        logits.append(model(batch).logits)
        same(in_steps(model, batch), logits[-1])
    for a, b in zip(logits, logits[1:] + logits[:1], strict=True):
        assert (a - b).abs().max() > 0.1
    model.set_adapter("default")
    same(model(batch).logits, logits[0])


def test_an_adapter_switched_between_steps_counts_from_there() -> None:
    """Nothing of an adapter is kept with a cache but the entries it made."""
    batch = tokens(1, 8)
    model = adapt(tiny(1), "lora", target_modules=["wkv_b"]).eval()
    with torch.no_grad():
        cache = cache_of(model(batch[:, :5], use_cache=True))
        keys = cache.layers[0].rows.suffix.clone()
        with model.disable_adapter():
            plain = model(batch[:, 5:6], cache=copy.deepcopy(cache)).logits
        adapted = model(batch[:, 5:6], cache=cache).logits
    assert torch.equal(cache.layers[0].rows.suffix[:, :, :5], keys[:, :, :5])
    assert (plain - adapted).abs().max() > 0.1
    same(adapted, model(batch[:, :6]).logits[:, -1:])


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"alora_invocation_tokens": [3, 4]}, {"alora_offsets": [5]}),
        ({}, {"adapter_names": ["default", "__base__"]}),
    ],
    ids=["activated", "one for each row"],
)
def test_adapters_that_change_from_token_to_token_are_refused(
    settings: dict, arguments: dict
) -> None:
    batch = tokens(len(next(iter(arguments.values()))), 9)
    for targets, refused in ((["wkv_b"], True), (["wq"], False)):
        model = adapt(tiny(2), "lora", target_modules=targets, **settings).eval()
        if refused:
            with pytest.raises(UserError, match=r"wkv_b: .* leave wkv_b out of its"):
                model(batch, **arguments)
        else:
            model(batch, **arguments)


@pytest.mark.parametrize("layer", ["q_proj", "down_proj"])
def test_a_llama_with_adapters_is_not_converted_without_them(layer: str) -> None:
    source = llama()
    # Transformers' own add_adapter does this, but not with any version of PEFT.
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=[layer]), source)
    with pytest.raises(UserError, match=rf"{layer}.*merge adapters"):
        convert(source, Target("mtla"))


# ------------------------------------------------------------------- offloading


def by_device_map(model: LlamaMTLAForCausalLM, folder: Path) -> nn.Module:
    model.save_pretrained(folder / "model")
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "lm_head"), "cpu")
    return LlamaMTLAForCausalLM.from_pretrained(
        folder / "model",
        device_map={**places, "model.layers": "disk"},
        offload_folder=folder / "weights",
        dtype=torch.float32,
    )


def by_dispatch(model: nn.Module, folder: Path) -> nn.Module:
    places = {"model": "disk", "lm_head": "cpu"}
    return dispatch_model(model, places, main_device="cpu", offload_dir=folder)


CPU = torch.device("cpu")
OFFLOADS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "device_map": by_device_map,
    "dispatch_model": by_dispatch,
    "disk_offload": lambda model, folder: disk_offload(model, folder, CPU),
    "cpu_offload": lambda model, _: cpu_offload(model, CPU),
    "with buffers": lambda model, _: cpu_offload(model, CPU, offload_buffers=True),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
@torch.no_grad()
def test_offloaded_weights_give_the_same(
    offload: Callable, bias: bool, tmp_path: Path
) -> None:
    model = tiny(3, dtype=torch.float32, attention_bias=bias)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    batch, options = tokens(2, 9), {"max_new_tokens": 6, "do_sample": False}
    expected, text = model(batch).logits, model.generate(batch, **options)
    beams = model.generate(batch, num_beams=2, **options)
    away = offload(copy.deepcopy(model), tmp_path).eval()
    assert away.model.layers[0].self_attn.wkv_b.weight.is_meta
    torch.testing.assert_close(away(batch).logits, expected, rtol=0, atol=5e-5)
    assert torch.equal(away.generate(batch, **options), text)
    assert torch.equal(away.generate(batch, num_beams=2, **options), beams)

"""Low-rank adapters (LoRA) in a frozen encoder, by the package peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.encoders import PretrainedEncoder
from espnet_mtla.settings.checks import require
from espnet_mtla.settings.yaml_files import check_keys


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the adapters.

    Args:
        rank: of the two matrices of an adapter.
        alpha: an adapter's output is scaled by ``alpha / rank``.
        dropout: of an adapter's input, while training.
        targets: last parts of the names of the linear layers to adapt; None for those
            of the attention (WavLM: of the feed-forward layers).
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            value = getattr(self, name)
            whole = isinstance(value, int) and value > 0
            require(whole, f"lora.{name}", value, "a whole number above 0 is")
        require(
            0 <= self.dropout < 1, "lora.dropout", self.dropout, "a number in [0, 1) is"
        )
        targets = self.targets
        require(
            targets is None or (not isinstance(targets, str) and len(targets) > 0),
            "lora.targets",
            targets,
            "a list of names is",
        )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> LoraSettings:
        """Read the settings of YAML; refuse unknown keys by name."""
        require(isinstance(settings, Mapping), "lora", settings, "a mapping is")
        check_keys("lora", settings, [field.name for field in fields(cls)])
        return cls(**settings)


def add_adapters(encoder: PretrainedEncoder, settings: LoraSettings) -> nn.Module:
    """Put adapters into a frozen encoder, in place.

    Returns:
        The adapters' matrices, the same modules that the encoder calls, under the names
        of the layers that they adapt.

    Raises:
        UserError: peft is missing, or a target is no linear layer, or the encoder uses
            a target's weights without calling it.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise UserError("lora: peft is not installed; pip install peft") from None
    targets = list(settings.targets or encoder.adapted)
    _check_targets(encoder.model, targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    inject_adapter_in_model(config, encoder.model)
    layers = {
        name: layer
        for name, layer in encoder.model.named_modules()
        if hasattr(layer, "lora_A")
    }
    _check_called(encoder, layers)
    tree = nn.Module()
    for name, layer in layers.items():
        node = _node(tree, name)
        node.lora_A, node.lora_B = layer.lora_A, layer.lora_B
    return tree


def _node(tree: nn.Module, name: str) -> nn.Module:
    """Return the module of a dotted name in ``tree``, made if need be."""
    for part in name.split("."):
        if part not in tree._modules:
            tree.add_module(part, nn.Module())
        tree = tree.get_submodule(part)
    return tree


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    linear = {
        name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
    }
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            names = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"lora.targets: no linear layer {target!r} in the encoder; valid: "
                f"{', '.join(names)}"
            )


def _check_called(encoder: PretrainedEncoder, layers: Mapping[str, Any]) -> None:
    """Refuse layers whose weights are used directly: adapters would have no effect."""
    called: set[nn.Module] = set()

    def note(layer: nn.Module, _: tuple[Tensor, ...], __: Tensor) -> None:
        called.add(layer)

    hooks = [layer.register_forward_hook(note) for layer in layers.values()]
    with torch.no_grad():
        encoder.states([torch.zeros(encoder.rate)])
    for hook in hooks:
        hook.remove()
    unused = {
        name.rpartition(".")[2] for name, layer in layers.items() if layer not in called
    }
    if unused:
        raise UserError(
            f"lora.targets: {', '.join(sorted(unused))}: the encoder uses the weights "
            "of these layers without calling them: adapters would have no effect; "
            f"choose others, such as {', '.join(encoder.adapted)}"
        )

"""Low-rank adapters (LoRA) of a part of a model, by PEFT.

A linear layer W with adapters computes ``W x + alpha / rank B A x``. W keeps its
values; only A and B, two thin matrices, train. Training stores them apart (unmerged). A
model that is loaded adds the product to W (merges it), so that decoding is as fast as
without adapters and needs no PEFT.

Adapters of the encoder of ``frontend: transformers`` are never merged: checkpoints do
not contain this encoder, which is read from its own folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import check_count, check_number
from espnet_mtla.settings.yaml_files import check_keys

if TYPE_CHECKING:
    from espnet_mtla.model.base import DecoderOnlyModel

PARTS = ("frontend", "encoder", "decoder")
"""Parts of a model that the option ``lora`` can name."""
_MARK = ".lora_A."
"""In the names of parameters of an unmerged adapter."""


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the adapters of one part.

    Attributes:
        rank: width of the two matrices.
        alpha: the product of the matrices is multiplied by ``alpha / rank``; None: 1.
        dropout: probability for the adapters' input in training.
        targets: names of linear layers, such as ``wq`` or ``ffn.up``: whole names or
            their last words. Empty: those of the part's attention.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, settings: object, where: str) -> LoraSettings:
        """Return the settings of a section of a YAML file.

        Args:
            settings: the section; a mapping with the fields above as keys.
            where: name of the section, with which messages begin.

        Raises:
            UserError: it is no mapping, a key is unknown, or a value out of range.
        """
        if not isinstance(settings, Mapping):
            raise UserError(f"{where}: {settings!r} given, settings needed")
        check_keys(where, settings, [field.name for field in fields(cls)])
        targets = settings.get("targets") or ()
        if isinstance(targets, str) or not isinstance(targets, Iterable):
            raise UserError(f"{where}.targets: {targets!r} given, a list needed")
        config = cls(**{**settings, "targets": tuple(targets)})
        prefix = f"{where}."
        check_count(config, "rank", prefix=prefix)
        check_number(config, "dropout", inside="[0, 1)", prefix=prefix)
        if config.alpha is not None:
            check_number(config, "alpha", inside="(0, inf)", prefix=prefix)
        return config


def check_lora(settings: Mapping[str, Any]) -> None:
    """Check the option ``lora``, settings by part; raise :class:`UserError`."""
    for part, conf in settings.items():
        if part not in PARTS:
            raise UserError(f"lora: {part}: no such part; {', '.join(PARTS)} are")
        LoraSettings.parse(conf, f"lora.{part}")


def add_lora(model: DecoderOnlyModel, settings: Mapping[str, Any]) -> None:
    """Put adapters into the parts that ``settings`` name, and freeze these parts.

    Raises:
        UserError: PEFT is missing, or a part or a target does not exist.
    """
    check_lora(settings)
    for name, conf in settings.items():
        where, part = f"lora.{name}", getattr(model, name)
        if part is None:
            raise UserError(f"{where}: this model has no {name}")
        if getattr(part, "has_own_adapters", False):
            raise UserError(f"{where}: give these settings as {name}_conf.lora")
        inject(part, LoraSettings.parse(conf, where), where)


def inject(part: nn.Module, settings: LoraSettings, where: str) -> dict[str, nn.Module]:
    """Put adapters into the linear layers of ``part``, and freeze the rest of it.

    Returns:
        The adapted layers by their names in ``part``.

    Raises:
        UserError: PEFT is missing, or a target does not exist; begins with ``where``.
    """
    targets = find_targets(part, settings.targets, where)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise UserError(
            f"{where}: PEFT is missing: pip install 'espnet-mtla[lora]'"
        ) from None
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # PEFT divides by the rank alone
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    inject_adapter_in_model(config, part)
    return {name: part.get_submodule(name) for name in targets}


def find_targets(part: nn.Module, targets: Collection[str], where: str) -> list[str]:
    """Return the full names of the linear layers to adapt.

    Args:
        part: the module that has the layers.
        targets: as in :class:`LoraSettings`.
        where: what messages begin with.

    Raises:
        UserError: a target names no linear layer; lists those there are.
    """
    linear = [name for name, m in part.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"{where}: it has no linear layers to adapt")
    if not targets:
        targets = [name for name in linear if "attention." in f"{name}."] or linear
    chosen: dict[str, None] = {}
    for target in targets:
        names = [name for name in linear if f".{name}".endswith(f".{target}")]
        if not names:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"{where}.targets: {target}: no such linear layer; there are "
                f"{', '.join(ends)}"
            )
        chosen |= dict.fromkeys(names)
    return list(chosen)


def adapter_tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Return the matrices of adapted layers alone, under the names of these layers.

    They are the modules that the layers call, so that training the tree trains the
    adapters.

    Args:
        layers: adapted layers by name, as :func:`inject` returns them.
    """
    tree = nn.Module()
    for name, layer in layers.items():
        node = tree
        for word in name.split("."):
            if word not in node._modules:
                node.add_module(word, nn.Module())
            node = node.get_submodule(word)
        node.lora_A, node.lora_B = layer.lora_A, layer.lora_B
    return tree


def merge_lora(model: nn.Module) -> None:
    """Add all adapters to their layers' weights, and put the plain layers back."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            module.merge(safe_merge=True)
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())


def has_adapters(names: Iterable[str]) -> bool:
    """Return True if there are parameters of unmerged adapters among ``names``.

    >>> has_adapters(["wq.base_layer.weight", "wq.lora_A.default.weight"])
    True
    """
    return any(_MARK in name for name in names)

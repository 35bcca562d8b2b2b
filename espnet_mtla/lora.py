"""Low-rank adapters (LoRA) of a part of a model, by PEFT.

An adapted part keeps its weights; only the adapters, two thin matrices a layer, train.
Training stores them apart (unmerged). A model that is loaded adds them to the weights
(merges them), so that decoding is as fast as without, and needs no PEFT afterwards.
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
_MARK = ".lora_A."
"""In the names of parameters of an unmerged adapter."""


@dataclass(frozen=True)
class LoRAConfig:
    """Settings of the adapters of one part.

    Attributes:
        rank: width of the two matrices.
        alpha: the product of the matrices is multiplied by ``alpha / rank``; None: 1.
        dropout: probability for the adapters' input in training.
        targets: names of linear layers, such as ``wq`` or ``ffn.up``: whole names or
            their last words. Empty: all linear layers of the attention.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, part: str, settings: object) -> LoRAConfig:
        """Return the settings of ``lora.PART`` of a YAML file.

        Raises:
            UserError: the part or a key is unknown, or a value out of range.
        """
        if part not in PARTS:
            raise UserError(f"lora: {part}: no such part; {', '.join(PARTS)} are")
        if not isinstance(settings, Mapping):
            raise UserError(f"lora.{part}: {settings!r} given, settings needed")
        check_keys(f"lora.{part}", settings, [field.name for field in fields(cls)])
        targets = settings.get("targets", ())
        if isinstance(targets, str) or not isinstance(targets, Iterable):
            raise UserError(f"lora.{part}.targets: {targets!r} given, a list needed")
        config = cls(**{**settings, "targets": tuple(targets)})
        check_count(config, "rank", prefix=f"lora.{part}.")
        check_number(config, "dropout", inside="[0, 1)", prefix=f"lora.{part}.")
        if config.alpha is not None:
            check_number(config, "alpha", inside="(0, inf)", prefix=f"lora.{part}.")
        return config


def check_lora(settings: Mapping[str, Any]) -> None:
    """Check the option ``lora``; raise :class:`UserError`."""
    for part, conf in settings.items():
        LoRAConfig.parse(part, conf)


def add_lora(model: DecoderOnlyModel, settings: Mapping[str, Any]) -> None:
    """Put adapters into the parts that ``settings`` name, and freeze these parts.

    Raises:
        UserError: PEFT is missing, or a part or a target does not exist.
    """
    for name, conf in settings.items():
        config = LoRAConfig.parse(name, conf)
        part = getattr(model, name)
        if part is None:
            raise UserError(f"lora.{name}: this model has no {name}")
        _inject(part, config, find_targets(part, config.targets, f"lora.{name}"))


def find_targets(part: nn.Module, targets: Collection[str], where: str) -> list[str]:
    """Return the full names of the linear layers to adapt.

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


def _inject(part: nn.Module, config: LoRAConfig, targets: list[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise UserError("lora: PEFT is missing: pip install peft") from None
    alpha = config.rank if config.alpha is None else config.alpha
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # PEFT divides by the rank alone
        lora_dropout=config.dropout,
        target_modules=targets,
    )
    inject_adapter_in_model(peft_config, part)


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

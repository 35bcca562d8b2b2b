"""Which parameters train, and how fast: ``freeze_param`` and ``lr_scale``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from espnet_mtla.errors import UserError


def check_frozen(model: nn.Module, names: Iterable[str]) -> None:
    """Require that ``freeze_param`` names parts of the model and that something trains.

    Raises:
        UserError: names the part.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in names:
        first = name.partition(".")[0]
        known = any(is_inside(parameter, name) for parameter in parameters)
        # A part without parameters, or that this model does without, needs no freezing.
        if not known and not (name == first and hasattr(model, first)):
            parts = sorted({parameter.partition(".")[0] for parameter in parameters})
            raise UserError(
                f"freeze_param: {name}: no such part; there are {', '.join(parts)}"
            )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError("freeze_param: all parameters are frozen: nothing would train")


def parameter_groups(
    model: nn.Module, scales: Mapping[str, Any], rate: float
) -> list[dict[str, Any]]:
    """Return an optimiser's groups of the parameters that train.

    Args:
        model: the model.
        scales: by name of a part, such as ``decoder`` or ``decoder.embedding``, the
            factor of its learning rate. The longest name that fits counts.
        rate: learning rate of all other parameters.
    Raises:
        UserError: a part has no parameters that train, or a factor is not positive.
    """
    groups: dict[str, list[nn.Parameter]] = {"": []}
    for name, scale in scales.items():
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or scale <= 0:
            raise UserError(
                f"lr_scale.{name}: {scale!r} given, a positive number needed; to keep "
                f"a part as it is: freeze_param: [{name}]"
            )
        groups[name] = []
    for parameter, value in model.named_parameters():
        if value.requires_grad:
            fitting = [name for name in scales if is_inside(parameter, name)]
            groups[max(fitting, key=len, default="")].append(value)
    for name in scales:
        if not groups[name]:
            raise UserError(
                f"lr_scale.{name}: no parameters that train have this name before them"
            )
    return [
        {"params": values, "lr": rate * scales.get(name, 1.0)}
        for name, values in groups.items()
        if values
    ]


def is_inside(parameter: str, part: str) -> bool:
    """Return True if a parameter's name begins with the words of a part's.

    >>> is_inside("decoder.norm.weight", "decoder"), is_inside("ctc2.w", "ctc")
    (True, False)
    """
    return f"{parameter}.".startswith(f"{part}.")

"""Check that an object still runs the package's own methods.

A fused kernel, or code that reads parameters directly, skips methods and calls. That is
correct only if no subclass, hook or attribute of the object has replaced one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def keeps_methods(
    instance: object, methods: Mapping[str, Callable[..., object]]
) -> bool:
    """Return True if ``instance`` has exactly these functions under these names."""
    own, cls = instance.__dict__, type(instance)
    return all(
        name not in own and getattr(cls, name) is method
        for name, method in methods.items()
    )


def is_plain(
    module: nn.Module | None, cls: type[Module], methods: Iterable[str] = ()
) -> TypeGuard[Module]:
    """Return True if calling ``module`` runs the code of ``cls`` and no other.

    False for subclasses, for modules with forward hooks (accelerate, pruning, weight
    normalisation), and where ``forward`` or one of ``methods`` was replaced on the
    object.
    """
    if type(module) is not cls or module._forward_hooks or module._forward_pre_hooks:
        return False
    own = module.__dict__
    return "forward" not in own and not any(name in own for name in methods)

"""All tensors behind a model, and memory that shows when nobody has written to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn


def tensors(
    thing: object, path: str = "", met: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that is reached: parameters, buffers, attributes, in lists too."""
    met = set() if met is None else met
    if isinstance(thing, Tensor):
        yield path, thing
        return
    if isinstance(thing, dict):
        inner = {f"{path}[{key}]": value for key, value in thing.items()}
    elif isinstance(thing, list | tuple):
        inner = {f"{path}[{place}]": value for place, value in enumerate(thing)}
    elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("espnet"):
        inner = {f"{path}.{k}": v for k, v in getattr(thing, "__dict__", {}).items()}
    else:
        return
    if id(thing) in met:
        return
    met.add(id(thing))
    for name, value in inner.items():
        yield from tensors(value, name, met)


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is taken and never written holds what a test cannot miss."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*args, original=original, **kwargs):
            made = original(*args, **kwargs)
            if not made.is_meta:
                with torch.no_grad():
                    made.fill_(float("nan") if made.is_floating_point() else -77)
            return made

        monkeypatch.setattr(torch, name, poisoned)

"""Contexts that set a mode of torch or of a model, and restore it afterwards."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def float32_default() -> Iterator[None]:
    """Set the default dtype to float32 in the block, and restore it afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def no_inference_tensors() -> Iterator[None]:
    """Replace inference mode by ``no_grad`` in the block; do nothing outside it.

    espnet2's encoders cache their positional encodings. A tensor created in inference
    mode cannot take part in autograd, so training with the cached one would fail.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Set all modules to evaluation mode inside the block, and restore their modes."""
    training = [module for module in model.modules() if module.training]
    try:
        if training:
            model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` with autocast disabled on all devices.

    Energies span more decades than bfloat16 and float16 resolve.
    """

    @functools.wraps(function)
    def without_autocast(*args: P.args, **kwargs: P.kwargs) -> R:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            return function(*args, **kwargs)

    return without_autocast

"""Contexts that set a mode of torch or of a model, and restore it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


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

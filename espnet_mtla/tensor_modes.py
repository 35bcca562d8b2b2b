"""How tensors are created that outlive the call in which they are made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32_default() -> Iterator[None]:
    """Create tensors in single precision, whatever the caller's default type is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def no_inference_tensors() -> Iterator[None]:
    """Run without gradients where the caller is in inference mode, but outside it.

    espnet2's encoders keep their tables of positions. A table made in inference mode
    could not be used in training afterwards.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield

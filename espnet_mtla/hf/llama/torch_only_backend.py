"""The registry of decode-attention back-ends in an exported folder: PyTorch's alone.

It replaces :mod:`espnet_mtla.attention.decoding.backend` there, so that kernels need
not be exported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espnet_mtla.attention.decoding.backend.torch import BACKEND, TorchBackend
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

DecodeBackend = TorchBackend  # the name that annotations use


def choose_backend(
    name: str,
    layout: EntryLayout,  # noqa: ARG001 - PyTorch supports every case
    dtype: torch.dtype,  # noqa: ARG001
    device: torch.device,  # noqa: ARG001
) -> TorchBackend:
    """Return PyTorch's back-end; the arguments are those of the full registry.

    Raises:
        UserError: ``name`` is another back-end.
    """
    if name not in ("auto", "torch"):
        raise UserError(
            f"backend {name}: is not in an exported folder; install espnet-mtla"
        )
    return BACKEND

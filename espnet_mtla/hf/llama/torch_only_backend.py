"""Stands in for the registry of decode back-ends where a model travels alone.

An exported folder holds the sources that it needs and no more: PyTorch's back-end runs
anywhere. With the package installed, all of them are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from espnet_mtla.attention.decoding.backend.torch import BACKEND, TorchBackend
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

DecodeBackend = TorchBackend  # for annotations: there is one


def choose_backend(
    name: str,
    layout: EntryLayout,  # noqa: ARG001 - PyTorch's fits any, in any type, anywhere
    dtype: torch.dtype,  # noqa: ARG001
    device: torch.device,  # noqa: ARG001
) -> TorchBackend:
    """PyTorch's back-end.

    Raises:
        UserError: another one is asked for by name.
    """
    if name not in ("auto", "torch"):
        raise UserError(
            f"backend {name}: is not in an exported folder; install espnet-mtla"
        )
    return BACKEND

"""Stands in for the registry of decode back-ends where a model travels alone.

An exported folder holds the sources that it needs and no more: PyTorch's back-end runs
anywhere. With the package installed, all of them are there.
"""

from __future__ import annotations

from espnet_mtla.attention.backend.torch import BACKEND, TorchBackend
from espnet_mtla.errors import UserError

DecodeBackend = TorchBackend  # for annotations: there is one


def choose_backend(name: str, *where: object) -> TorchBackend:
    """PyTorch's back-end; ``where`` (layout, dtype, device) it fits everything.

    Raises:
        UserError: another one is asked for by name.
    """
    if name not in ("auto", "torch"):
        raise UserError(
            f"backend {name}: is not in an exported folder; install espnet-mtla"
        )
    del where
    return BACKEND

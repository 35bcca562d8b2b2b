"""Bound the size of a model while it is built.

A configuration of a few lines can describe a model that no machine holds. Building is
stopped at a number of bytes and of tensors, before the memory is written to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from espnet_mtla.errors import UserError
from espnet_mtla.settings.checks import require

MOST_TENSORS = 20_000
"""The largest published models have some thousand."""
MOST_NUMBER = 2**20
"""Largest whole number in the settings of an encoder or projector."""
MOST_FRONTEND = {
    **dict.fromkeys(("n_fft", "win_length", "hop_length"), 2**16),
    "n_mels": 1024,
}
"""Largest values of a front-end's settings, whose filters are computed on building."""
# Beside the stored parameters: buffers of positions, and float32 for 8 or 16 bits.
_SPARE, _FACTOR = 2**28, 8
_FACTORIES: frozenset[Callable[..., Any]] = frozenset(
    (torch.empty, torch.zeros, torch.ones, torch.full)
)


class BoundedBuilding(TorchFunctionMode):
    """Within this context, refuse to build more than a number of bytes.

    Raises:
        UserError: the bound is exceeded; the message begins with ``where``.
    """

    def __init__(self, most_bytes: int, where: str, reason: str) -> None:
        """Begin with nothing built.

        Args:
            most_bytes: bound of all parameters and buffers together.
            where: the configuration, for the message.
            reason: where the bound comes from, for the message.
        """
        super().__init__()
        self.most_bytes, self.where, self.reason = most_bytes, where, reason
        self.bytes = self.tensors = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES:
            # Without memory first: zeros, for one, are written as they are allocated.
            self._count(func(*args, **{**options, "device": "meta"}))
        return func(*args, **options)

    def _count(self, planned: Tensor) -> None:
        self.bytes += planned.nbytes
        self.tensors += 1
        if self.bytes > self.most_bytes or self.tensors > MOST_TENSORS:
            raise UserError(
                f"{self.where}: describes a model of more than "
                f"{self.most_bytes / 1e9:.2g} GB or {MOST_TENSORS} tensors, "
                f"{self.reason}; are its sizes right?"
            )


def bounded_by_memory(where: str) -> BoundedBuilding:
    """Bound building by the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return BoundedBuilding(memory, where, "the memory of this machine")


def bounded_by_weights(weights: Path, where: str) -> BoundedBuilding:
    """Bound building by the files of parameters in the folder of ``weights``."""
    ends = ("*.pth", "*.safetensors")
    files = [file for end in ends for file in weights.parent.glob(end)]
    stored = sum(file.stat().st_size for file in {weights, *files})
    return BoundedBuilding(
        _FACTOR * stored + _SPARE, where, f"and {weights.name} is far smaller"
    )


def check_sizes(
    section: str, settings: Mapping[str, Any], most: Mapping[str, int] | None = None
) -> None:
    """Refuse numbers in settings that no model has.

    >>> check_sizes("frontend_conf", {"hop_length": 0}, MOST_FRONTEND)
    Traceback (most recent call last):
    espnet_mtla.errors.UserError: frontend_conf.hop_length: 0 given, a whole number \
from 1 to 65536 is needed

    Args:
        section: the section of the configuration, for the message.
        settings: its settings.
        most: settings that have to be positive, and their largest values; other whole
            numbers are at most :data:`MOST_NUMBER`.
    Raises:
        UserError: names the setting and its range.
    """
    for key, value in settings.items():
        name, limit = f"{section}.{key}", (most or {}).get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if limit is not None and value is not None:
            fine = whole and 1 <= value <= limit
            require(fine, name, value, f"a whole number from 1 to {limit} is")
        elif whole:
            needed = f"a number of at most {MOST_NUMBER} is"
            require(abs(value) <= MOST_NUMBER, name, value, needed)

"""Front-ends whose stored output is not yet the features."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StoringFrontend(Protocol):
    """A front-end with a trained last step, which is applied to stored output."""

    def to_store(self, samples: Tensor) -> Tensor:
        """Return the output to store, (T, width to store), of samples (n,)."""

    def from_stored(self, stored: Tensor) -> Tensor:
        """Return features (..., T, F) of stored output (..., T, width to store)."""

    def identity(self) -> str:
        """Return what else stored output depends on, beside the settings."""

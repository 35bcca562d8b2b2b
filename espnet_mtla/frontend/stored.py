"""Front-ends that store something else than the features they give."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StoringFrontend(Protocol):
    """A front-end with a part that is trained behind what is stored."""

    def to_store(self, samples: Tensor) -> Tensor:
        """What is stored of one utterance (n,): (T, width to store)."""

    def from_stored(self, stored: Tensor) -> Tensor:
        """Features (..., T, F) from what is stored (..., T, width to store)."""

    def identity(self) -> str:
        """What the stored numbers depend on besides the settings."""

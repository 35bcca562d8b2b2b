"""Base of the front-ends that return hidden states of a pretrained encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_mtla.errors import UserError
from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from typing_extensions import Self


class HiddenStatesFrontend(AbsFrontend):
    """Hidden states of an encoder: one, or a learned weighted sum of all.

    An encoder that is frozen, or has adapters, is in no checkpoint and stays in single
    precision. A subclass calls :meth:`choose_layer` when it knows the number of states,
    and sets ``width`` and ``hop_length``.

    Args:
        encoder: the pretrained encoder.
        finetune: train it; it is then a submodule with the name ``trained_name``.
    """

    trained_name: ClassVar[str]
    """Prefix of the parameters of a trained encoder."""
    width: int
    """Features per frame of one state."""
    hop_length: int
    """Samples from one frame to the next."""
    layer: int | None
    """Number of the state that is returned; None: the weighted sum of all."""
    layers: int
    """States that are stored: 1, or all of them for the weighted sum."""

    def __init__(self, encoder: nn.Module, finetune: bool) -> None:
        super().__init__()
        self.turns = Turns()
        self.finetune = finetune
        if finetune:
            self.add_module(self.trained_name, encoder)
        else:
            # In a list, so that torch does not register it as a submodule.
            self._frozen = [encoder.eval().requires_grad_(False)]
        # Transformers' loaders move registered parameters alone, so a frozen encoder
        # is moved to the device of its input, in _follow.
        self._device = torch.device("cpu")

    def choose_layer(self, layer: int | None, count: int, name: str) -> None:
        """Choose one of ``count`` states, or the weighted sum of all (None).

        Raises:
            UserError: there is no such state; names the model, ``name``.
        """
        if layer is None and count == 1:
            layer = 0
        if layer is not None and not -count <= layer < count:
            raise UserError(f"layer: {layer}: {name} has 0 to {count - 1}")
        self.layer = None if layer is None else layer % count
        self.layers = count if layer is None else 1
        if layer is None:
            self.weights = nn.Parameter(torch.zeros(count))

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.width

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, width), zero after a row's end, and frames (B,).

        Args:
            speech: (B, L) samples in [-1, 1]; lengths: (B,).
        """
        rows = [row[:n] for row, n in zip(speech, lengths.tolist(), strict=True)]
        stored = self.store_rows(rows)
        counts = torch.tensor([len(row) for row in stored], device=speech.device)
        return self.from_stored(pad_sequence(stored, batch_first=True)), counts

    @abstractmethod
    def store_rows(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return states (T, layers x width) of each row of samples (n,)."""

    def to_store(self, samples: Tensor) -> Tensor:
        """Return the states to store, (T, layers x width), of samples (n,)."""
        return self.store_rows([samples])[0]

    def from_stored(self, stored: Tensor) -> Tensor:
        """Return features (..., T, width) of stored states (..., T, layers x width).

        States of another width are returned unchanged; the model refuses them.
        """
        if self.layer is not None or stored.size(-1) != self.layers * self.width:
            return stored
        states = stored.unflatten(-1, (self.layers, self.width))
        shares = self.weights.softmax(0).to(states.dtype)
        return torch.einsum("...ld,l->...d", states, shares)

    def _pretrained(self) -> Any:
        """Return the encoder, frozen or trained."""
        return getattr(self, self.trained_name) if self.finetune else self._frozen[0]

    def _follow(self, device: torch.device) -> None:
        """Move a frozen encoder to the device of its input."""
        if not self.finetune and self._device != device:
            self._move_frozen(device)

    def _apply(self, change: Callable[[Tensor], Tensor], *rest: bool) -> Self:
        """Move the frozen encoder too; it stays in single precision."""
        super()._apply(change, *rest)
        if not self.finetune:
            device = change(torch.zeros(0, device=self._device)).device
            if device.type != "meta":  # where its weights would be lost
                self._move_frozen(device)
        return self

    def _move_frozen(self, device: torch.device) -> None:
        self._frozen[0].to(device)
        self._device = device

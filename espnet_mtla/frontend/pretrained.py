"""Pretrained encoders of Transformers as a front-end (``frontend: transformers``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.checkpoint import find_folder
from espnet_mtla.frontend.encoder_folder import encoder_digest, load_encoder
from espnet_mtla.frontend.encoders import PretrainedEncoder
from espnet_mtla.frontend.lora import LoraSettings, add_adapters
from espnet_mtla.turns import Turns

# Rows share a batch if at most this share of it is padding.
_MOST_PADDING = 0.2
# Most seconds in a batch: the layers' inner activations are large.
_MOST_SECONDS = 240


class TransformersFrontend(AbsFrontend):
    """Hidden states of a pretrained encoder: one, or a learned weighted sum of all.

    Audio longer than the encoder takes at once (Whisper: 30 s) is cut into windows of
    that length, which are encoded one by one and joined. An utterance's output does
    not depend on its batch or on what follows its end.

    Checkpoints do not contain a frozen encoder: it is read from ``model`` each time.

    Args:
        model: name on the hub, or folder as Transformers writes it, of Whisper, WavLM,
            HuBERT, wav2vec 2.0, XLS-R or w2v-BERT 2.0.
        layer: 0 is the first layer's input, -1 the last layer's output; None for the
            weighted sum.
        finetune: train the encoder too.
        lora: train adapters in the encoder, which stays as it is: a mapping with the
            keys of :class:`~espnet_mtla.frontend.lora.LoraSettings`. Checkpoints
            contain the adapters alone.
        keep_padding: Whisper alone: pad to 30 s as Transformers does, 1500 frames.
        fs: sampling rate; must be the encoder's.
    """

    def __init__(
        self,
        model: str,
        layer: int | None = None,
        finetune: bool = False,
        lora: Mapping[str, Any] | None = None,
        keep_padding: bool = False,
        fs: int | str = 16000,
    ) -> None:
        super().__init__()
        import humanfriendly

        self.folder = find_folder(model)
        self.turns = Turns()
        encoder = load_encoder(self.folder, keep_padding)
        if humanfriendly.parse_size(str(fs)) != encoder.rate:
            raise UserError(f"fs: {fs!r}: {model} takes {encoder.rate} Hz")
        if layer is not None and not -encoder.layers <= layer < encoder.layers:
            raise UserError(f"layer: {layer}: {model} has 0 to {encoder.layers - 1}")
        self.layer = None if layer is None else layer % encoder.layers
        if finetune and lora is not None:
            raise UserError("finetune, lora: one of them trains the encoder; give one")
        self.hop_length, self.width = encoder.hop_length, encoder.width
        self.layers = encoder.layers if layer is None else 1
        self.finetune, self.adapts = finetune, lora is not None
        if finetune:
            self.encoder = encoder
        else:
            # In a list, so that torch does not register it as a submodule.
            self._hidden = [encoder.requires_grad_(False)]
        if lora is not None:
            self.adapter = add_adapters(encoder, LoraSettings.from_mapping(lora))
        # Transformers' loaders move registered parameters alone, so a frozen encoder
        # is moved to the device of its input, in _encode.
        self._device = torch.device("cpu")
        if self.layer is None:
            self.weights = nn.Parameter(torch.zeros(self.layers))

    @property
    def mixed_precision(self) -> bool:
        """Whether autocast applies: the encoder trains, and its states change."""
        return self.finetune or self.adapts

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.width

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, width), zero after a row's end, and frames (B,).

        Args:
            speech: (B, L) samples in [-1, 1]; lengths: (B,).
        """
        rows = [row[:n] for row, n in zip(speech, lengths.tolist(), strict=True)]
        stored = self._store(rows)
        counts = torch.tensor([len(row) for row in stored], device=speech.device)
        return self.from_stored(pad_sequence(stored, batch_first=True)), counts

    def to_store(self, samples: Tensor) -> Tensor:
        """Return the states to store, (T, layers x width), of samples (n,)."""
        return self._store([samples])[0]

    def from_stored(self, stored: Tensor) -> Tensor:
        """Return features (..., T, width) of stored states (..., T, layers x width).

        States of another width are returned unchanged; the model refuses them.
        """
        if self.layer is not None or stored.size(-1) != self.layers * self.width:
            return stored
        states = stored.unflatten(-1, (self.layers, self.width))
        shares = self.weights.softmax(0).to(states.dtype)
        return torch.einsum("...ld,l->...d", states, shares)

    def identity(self) -> str:
        """Return a hash of the checkpoint, on which stored states depend."""
        return encoder_digest(str(self.folder))

    def _store(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return states (T, layers x width) of each row of samples (n,)."""
        encoder = self.encoder if self.finetune else self._hidden[0]
        parts: list[list[Tensor]] = [
            [row.new_zeros(0, self.layers * self.width, dtype=torch.float32)]
            for row in rows
        ]
        windows, owners = [], []
        for owner, row in enumerate(rows):
            for window in row.float().split(encoder.window or max(1, len(row))):
                if encoder.frames(len(window)):
                    windows.append(window)
                    owners.append(owner)
        grad = (self.finetune or self.adapts) and torch.is_grad_enabled()
        with self.turns, torch.set_grad_enabled(grad):
            self._follow(rows[0].device)
            encoded: dict[int, Tensor] = {}
            alone = rows[0].device.type == "cpu" and not grad
            for batch in batches(list(map(len, windows)), encoder, alone):
                states = self._encode(encoder, [windows[index] for index in batch])
                encoded |= zip(batch, states, strict=True)
        for index, owner in enumerate(owners):
            parts[owner].append(encoded[index])
        return [torch.cat(part) for part in parts]

    def _encode(
        self, encoder: PretrainedEncoder, rows: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """Return the chosen states (T, layers x width) of each row of a batch."""
        states, counts = encoder.states(rows)
        chosen = states if self.layer is None else [states[self.layer]]
        joined = torch.cat(chosen, -1)
        return (row[:count] for row, count in zip(joined, counts, strict=True))

    def _follow(self, device: torch.device) -> None:
        """Move a frozen encoder to the device of its input."""
        if self.finetune or self._device == device:
            return
        if self.adapts and getattr(self, "_is_replica", False):
            raise UserError(
                "lora: several GPUs need a process each (multiprocessing_distributed)"
            )
        self._move_hidden(device)

    def train(self, mode: bool = True) -> TransformersFrontend:
        """Set the mode; an encoder without adapters stays in evaluation mode."""
        super().train(mode)
        if self.adapts:
            self._hidden[0].train(mode)
        return self

    def _apply(
        self, change: Callable[[Tensor], Tensor], *rest: bool
    ) -> TransformersFrontend:
        """Move the frozen encoder too; it stays in single precision."""
        super()._apply(change, *rest)
        if not self.finetune:
            device = change(torch.zeros(0, device=self._device)).device
            if device.type != "meta":  # where its weights would be lost
                self._move_hidden(device)
        return self

    def _move_hidden(self, device: torch.device) -> None:
        self._hidden[0].to(device)
        self._device = device


def batches(
    lengths: Sequence[int], encoder: PretrainedEncoder, alone: bool
) -> Iterator[list[int]]:
    """Yield the numbers of rows to encode together: of similar lengths, not too many.

    Args:
        lengths: samples of each row.
        encoder: says whether rows of different lengths may share a batch.
        alone: one row at a time. Without gradients, a batch is not faster on a CPU, and
            it would change the rounding of its rows.
    """
    shortest = 1 - _MOST_PADDING if encoder.mixes_lengths else 1.0
    most = 0 if alone else _MOST_SECONDS * encoder.rate
    batch: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        full = (len(batch) + 1) * longest > most
        if batch and (full or lengths[row] < shortest * longest):
            yield batch
            batch = []
        longest = longest if batch else lengths[row]
        batch.append(row)
    if batch:
        yield batch

"""Cache of a frozen encoder's output, kept in memory from epoch to epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

logger = logging.getLogger(__name__)

# Training or validation, and the name: both may use one name for different audio.
Key = tuple[bool, str]
Encode = Callable[[Tensor, Tensor, Sequence[str]], tuple[Tensor, Tensor]]


def is_frozen(*parts: nn.Module | None) -> bool:
    """Return True if training changes no parameter of the modules."""
    return not any(p.requires_grad for part in parts if part for p in part.parameters())


class EncodedUtterances:
    """Encoder outputs by utterance name, up to ``capacity`` bytes in host memory.

    Each process of a distributed run keeps those of its own batches. When the memory is
    full, further utterances are encoded every time.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.rows: dict[Key, Tensor] = {}
        self._full = False

    def encode(
        self,
        encode: Encode,
        speech: Tensor,
        lengths: Tensor,
        utt_id: Sequence[str],
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return ``encode(speech, lengths, utt_id)``, computed for missing rows alone.

        Args:
            encode: the encoder; speech: (B, L, ...); lengths: (B,); utt_id: B names.
            training: True for names of the training set, False for validation.
        Returns:
            Encoder output (B, T, E), zero after a row's end, and its lengths (B,).
        """
        keys = [(training, name) for name in utt_id]
        new = [row for row, key in enumerate(keys) if key not in self.rows]
        fresh: dict[Key, Tensor] = {}
        if new:
            names = [utt_id[row] for row in new]
            output, frames = encode(speech[new], lengths[new], names)
            for row, padded, count in zip(new, output, frames.tolist(), strict=True):
                fresh[keys[row]] = padded[:count]
        rows = [
            fresh[key] if key in fresh else self.rows[key].to(speech.device)
            for key in keys
        ]
        for key, output_row in fresh.items():
            self._keep(key, output_row)
        counts = torch.tensor([len(row) for row in rows], device=speech.device)
        return pad_sequence(rows, batch_first=True), counts

    def _keep(self, key: Key, row: Tensor) -> None:
        if key in self.rows:  # another replica has stored it meanwhile
            return
        if self.nbytes + row.nbytes <= self.capacity:
            self.rows[key] = row.detach().to("cpu", copy=True)
            self.nbytes += row.nbytes
        elif not self._full:
            self._full = True
            logger.info(
                "model_conf.encoded_cache_mb: %d MiB are full with %d utterances; the "
                "others are encoded every time",
                *(self.capacity // 2**20, len(self.rows)),
            )

"""What a frozen encoder made of each utterance, kept in memory from epoch to epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor, Tensor, Sequence[str]], tuple[Tensor, Tensor]]


def is_frozen(*parts: nn.Module | None) -> bool:
    """Whether training changes none of the parts' parameters."""
    return not any(p.requires_grad for part in parts if part for p in part.parameters())


class EncodedUtterances:
    """Encoder outputs by utterance name, up to ``capacity`` bytes in host memory.

    Each process of a distributed run keeps those it has met. When the memory is full
    the others are encoded each time, as without it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.rows: dict[str, Tensor] = {}
        self._full = False

    def encode(
        self, encode: Encode, speech: Tensor, lengths: Tensor, utt_id: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """``encode(speech, lengths, utt_id)``, run on those not kept yet alone.

        Args:
            speech: (B, L, ...); lengths: (B,); utt_id: B names.
        Returns:
            Encoder output (B, T, E), zero behind a row's end, and its lengths (B,).
        """
        new = [row for row, name in enumerate(utt_id) if name not in self.rows]
        fresh: dict[str, Tensor] = {}
        if new:
            names = [utt_id[row] for row in new]
            output, frames = encode(speech[new], lengths[new], names)
            for name, row, count in zip(names, output, frames.tolist(), strict=True):
                fresh[name] = row[:count]
        rows = [
            fresh[name] if name in fresh else self.rows[name].to(speech.device)
            for name in utt_id
        ]
        for name, row in fresh.items():
            self._keep(name, row)
        counts = torch.tensor([len(row) for row in rows], device=speech.device)
        return pad_sequence(rows, batch_first=True), counts

    def _keep(self, name: str, row: Tensor) -> None:
        if self.nbytes + row.nbytes <= self.capacity:
            self.rows[name] = row.detach().to("cpu", copy=True)
            self.nbytes += row.nbytes
        elif not self._full:
            self._full = True
            logger.info(
                "model_conf.encoded_cache_mb: %d MB are full with %d utterances; the "
                "others are encoded each time",
                *(self.capacity // 2**20, len(self.rows)),
            )

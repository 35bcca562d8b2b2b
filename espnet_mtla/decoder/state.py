"""What decoding keeps between steps: one cache a layer, advanced together."""

from __future__ import annotations

from torch import Tensor

from espnet_mtla.attention import KVCache


class DecoderState:
    """Caches of all layers for ``B`` utterances of ``beam`` hypotheses each.

    Row ``b * beam + k`` is hypothesis k of utterance b.
    """

    def __init__(self, caches: list[KVCache], beam: int, share_prompt: bool) -> None:
        self.caches = caches
        self.beam = beam
        for cache in caches:
            cache.fork(beam, share_prompt)

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row ``rows[i]`` was, ``(N,)``; same utterance only."""
        for cache in self.caches:
            cache.reorder(rows)

    def select(self, utterances: Tensor) -> None:
        """Keep utterances ``(B',)`` with all their hypotheses, in this order."""
        for cache in self.caches:
            cache.select(utterances, self.beam)

    @property
    def nbytes(self) -> int:
        """Bytes allocated by all layers."""
        return sum(cache.nbytes for cache in self.caches)

    @property
    def used_nbytes(self) -> int:
        """Bytes of the slots that hold something."""
        return sum(cache.used_nbytes for cache in self.caches)

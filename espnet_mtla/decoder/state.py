"""State of decoding between steps: one cache a layer, advanced together."""

from __future__ import annotations

from torch import Tensor

from espnet_mtla.attention import KVCache, Timeline
from espnet_mtla.attention.decoding.rows import rows_of


class DecoderState:
    """Caches of all layers for ``B`` utterances of ``beam`` hypotheses each.

    Row ``b * beam + k`` is hypothesis k of utterance b. The layers share one timeline;
    if the chunks of some layers are shifted, these share another.

    There is scratch memory of the size of one layer's suffix. To reorder beams, the
    first layer's suffix is copied into it in the new order, and the layer's old memory
    is the scratch of the next layer: every number is copied once.

    Args:
        caches: of each layer, with one row an utterance.
        beam: hypotheses of an utterance.
        share_prompt: one copy of the prompt for all hypotheses of an utterance.
    """

    def __init__(self, caches: list[KVCache], beam: int, share_prompt: bool) -> None:
        self.caches, self.beam = caches, beam
        by_offset: dict[int, Timeline] = {}
        for cache in caches:
            cache.timeline = by_offset.setdefault(cache.layout.offset, cache.timeline)
            cache.repeat_rows(beam, share_prompt)
        self.timelines = list(by_offset.values())
        for timeline in self.timelines:
            timeline.fork(beam, share_prompt)
        self.scratch = caches[0].scratch() if beam > 1 else []

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue row ``rows[i]``, ``(N,)``, of the same utterance."""
        if self.beam == 1:  # each row continues itself
            return
        for cache in self.caches:
            self.scratch = cache.reorder_into(rows, self.scratch)
        for timeline in self.timelines:
            timeline.reorder(rows)

    def reorder_in_place(self, rows: Tensor) -> None:
        """Do what :meth:`reorder` does, at the same addresses, for recorded steps."""
        for cache in self.caches:
            private = cache.beam == 1 and self.beam > 1  # each row has a prompt copy
            for part in cache.by_row() + (cache.by_prompt() if private else []):
                part.copy_(part.index_select(0, rows))
        for timeline in self.timelines:
            timeline.reorder(rows)

    def select(self, utterances: Tensor, capacity: int | None = None) -> None:
        """Keep utterances ``(B',)`` with all their hypotheses, in this order.

        Args:
            utterances: their places.
            capacity: tokens that each row has room for after its prompt, at most as
                before; None: as before.
        """
        rows = rows_of(utterances, self.beam)
        prompts = rows if self._copies_prompts else utterances
        selected: dict[int, tuple[Timeline, int]] = {}
        for old in self.timelines:
            new = old.select_rows(prompts, rows)
            new.capacity = capacity or new.capacity
            selected[old.offset] = new, int(new.prompt_chunks.max())
        for cache in self.caches:
            cache.select_rows(prompts, rows, *selected[cache.layout.offset])
        self.timelines = [timeline for timeline, _ in selected.values()]
        self._renew_scratch()

    def join(self, other: DecoderState, utterances: Tensor) -> None:
        """Put the utterances of another state at these places ``(B',)``.

        They replace the utterances there, or follow the last one without a gap.
        """
        rows = rows_of(utterances, self.beam)
        prompts = rows if self._copies_prompts else utterances
        for timeline, others in zip(self.timelines, other.timelines, strict=True):
            timeline.join(others, prompts, rows)
        for mine, theirs in zip(self.caches, other.caches, strict=True):
            mine.join(theirs, prompts, rows)
        self._renew_scratch()

    def rewind(self, rows: Tensor, appended: int) -> None:
        """Set rows back to the ends of their prompts, see :meth:`Timeline.rewind`."""
        for timeline in self.timelines:
            timeline.rewind(rows, appended)

    @property
    def _copies_prompts(self) -> bool:
        """True if each hypothesis has its own copy of the prompt."""
        return self.caches[0].beam < self.beam

    def _renew_scratch(self) -> None:
        """Allocate scratch memory of the caches' present shapes."""
        shapes = [part.shape for part in self.caches[0].by_row()]
        if self.scratch and [part.shape for part in self.scratch] != shapes:
            self.scratch = self.caches[0].scratch()

    @property
    def timeline(self) -> Timeline:
        """Token counts of the rows, which are the same in all layers."""
        return self.timelines[0]

    @property
    def nbytes(self) -> int:
        """Bytes allocated by all layers."""
        scratch = sum(part.nbytes for part in self.scratch)
        return scratch + sum(cache.nbytes for cache in self.caches)

    @property
    def used_nbytes(self) -> int:
        """Bytes of the slots in use."""
        return sum(cache.used_nbytes for cache in self.caches)

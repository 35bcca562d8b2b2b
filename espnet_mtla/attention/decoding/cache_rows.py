"""The tensors of a cache by row, and moving rows: forks, orders, arrivals, leavers.

Letters: ``B`` utterances, ``N`` rows, ``G`` entry heads, ``P`` prompt slots, ``S``
suffix slots, ``w`` entry width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.layout import EntryLayout
from espnet_mtla.attention.decoding.rows import put_rows
from espnet_mtla.attention.decoding.timeline import Timeline
from espnet_mtla.attention.decoding.window import RawWindow, ring_size


class CacheRows:
    """Tensors of :class:`.KVCache`, which describes them; None: it needs no such one.

    Attributes:
        layout: of an entry.
        timeline: token counts of the rows.
        prompt: ``(B, G, P, w)``.
        prompt_scale: ``(B, G, P, 1)``.
        suffix: ``(N, G, S, w)``.
        suffix_scale: ``(N, G, S, 1)``.
        running: ``(N, G, w)``.
        raw: unmerged entries of the newest tokens.
    """

    layout: EntryLayout
    timeline: Timeline
    prompt: Tensor
    prompt_scale: Tensor | None
    suffix: Tensor
    suffix_scale: Tensor | None
    running: Tensor | None
    raw: RawWindow | None

    def by_row(self) -> list[Tensor]:
        """Return the tensors with one row a hypothesis."""
        return self._of_suffix() + ([] if self.raw is None else self.raw.by_row())

    def by_prompt(self) -> list[Tensor]:
        """Return the tensors with one row a prompt copy."""
        own = [part for part in (self.prompt, self.prompt_scale) if part is not None]
        return own + ([] if self.raw is None else self.raw.by_prompt())

    def fork(self, beam: int, share_prompt: bool = True) -> None:
        """Repeat each row ``beam`` times, the copies beside each other."""
        self.timeline.fork(beam, share_prompt)
        self.repeat_rows(beam, share_prompt)

    def repeat_rows(self, beam: int, share_prompt: bool = True) -> None:
        """Do what :meth:`fork` does, but leave the timeline as it is."""
        self._set_by_row(part.repeat_interleave(beam, 0) for part in self.by_row())
        if not share_prompt:
            copies = torch.arange(len(self.prompt), device=self.prompt.device)
            self._select_prompts(copies.repeat_interleave(beam))

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue row ``rows[i]``, which is of the same utterance."""
        self.reorder_into(rows, self.scratch())
        self.timeline.reorder(rows)

    def scratch(self) -> list[Tensor]:
        """Allocate memory for :meth:`reorder_into`; caches of equal shapes share it."""
        return [torch.zeros_like(part) for part in self.by_row()]

    @torch.no_grad()
    def reorder_into(self, rows: Tensor, scratch: list[Tensor]) -> list[Tensor]:
        """Do what :meth:`reorder` does by copying into ``scratch``, without gradients.

        The scratch memory becomes the cache's and the cache's old memory is returned as
        the next scratch, so that each number is copied once. The timeline is left as it
        is.
        """
        old, in_suffix = self.by_row(), len(self._of_suffix())
        for i, (source, target) in enumerate(zip(old, scratch, strict=True)):
            if source.dim() == 4:  # (N, G, S, .): later slots are not in use
                time = self.timeline
                used = time.filled if i < in_suffix else time.most_appended
                source, target = source[:, :, :used], target[:, :, :used]
            torch.index_select(source, 0, rows, out=target)
        self._set_by_row(scratch)
        if len(self.prompt) == len(rows):  # not shared: each row has a copy
            self._select_prompts(rows)
        return old

    def select_rows(
        self, prompts: Tensor, rows: Tensor, timeline: Timeline, prompt_slots: int
    ) -> None:
        """Select prompt copies and rows, in this order, and set the timeline.

        Args:
            prompts: places of the prompt copies.
            rows: ``(N',)``.
            timeline: of these rows; slots beyond its capacity are dropped.
            prompt_slots: finished chunks of the longest of these prompts.
        """
        self._select_prompts(prompts, prompt_slots)
        parts, in_suffix = self.by_row(), len(self._of_suffix())
        slots = [timeline.slots] * in_suffix
        if self.raw is not None:
            slots += [ring_size(self.layout, timeline)] * (len(parts) - in_suffix)
        self._set_by_row(
            (part if part.dim() == 3 else part[:, :, :count]).index_select(0, rows)
            for part, count in zip(parts, slots, strict=True)
        )
        self.timeline = timeline

    def join(self, other: CacheRows, prompts: Tensor, rows: Tensor) -> None:
        """Do what :meth:`Timeline.join` does, and leave the timeline as it is."""
        for name in ("suffix", "suffix_scale", "running"):
            old, new = getattr(self, name), getattr(other, name)
            if old is not None:
                setattr(self, name, put_rows(old, new, rows))
        if self.raw is not None and other.raw is not None:
            self.raw.join(other.raw, prompts, rows)
        self.prompt = put_rows(self.prompt, other.prompt, prompts)
        if self.prompt_scale is not None and other.prompt_scale is not None:
            self.prompt_scale = put_rows(self.prompt_scale, other.prompt_scale, prompts)

    def _of_suffix(self) -> list[Tensor]:
        """Return the tensors of the suffix."""
        parts = (self.suffix, self.suffix_scale, self.running)
        return [part for part in parts if part is not None]

    def _set_by_row(self, parts: Iterable[Tensor]) -> None:
        self.suffix, *others = parts
        if self.suffix_scale is not None:
            self.suffix_scale, *others = others
        if self.running is not None:
            self.running, *others = others
        if self.raw is not None:
            self.raw.set_by_row(others)

    def _select_prompts(self, index: Tensor, slots: int | None = None) -> None:
        self.prompt = self.prompt[:, :, :slots].index_select(0, index)
        if self.prompt_scale is not None:
            self.prompt_scale = self.prompt_scale[:, :, :slots].index_select(0, index)
        if self.raw is not None:
            self.raw.select_prompts(index)

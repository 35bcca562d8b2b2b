"""A decoding step as one CUDA graph: recorded once a batch, then replayed.

A step of nine layers is hundreds of small kernels; launched one by one they keep the
host busier than the device. A recording runs them all at a single call, on the same
memory each time: tokens and row order are copied into buffers of the recording, caches
and timeline are changed in place, and every slot of the suffix takes part from the
start, so that no shape depends on how far the rows have come.

Batches get smaller when utterances leave; each size is recorded anew, which takes a
step or two (:data:`espnet_mtla.search.beam.LEAVE_AT` keeps sizes few).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from espnet_mtla.decoder.prepacked_linear import packed
from espnet_mtla.decoder.state import DecoderState
from espnet_mtla.errors import UserError
from espnet_mtla.turns import CUDA

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

    from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

log = logging.getLogger(__name__)
Step = Callable[[], Tensor]


class Recorder(Protocol):
    """Turns a function on fixed memory into one that does the same at each call."""

    def __call__(self, step: Step, undo: Callable[[], None]) -> Step:
        """Record ``step``; ``undo`` takes back what running it changes."""


class CudaRecorder:
    """Records on a CUDA device; all recordings share one pool of memory."""

    def __init__(self) -> None:
        self.pool: _POOL_HANDLE | None = None

    def __call__(self, step: Step, undo: Callable[[], None]) -> Step:
        with CUDA:
            return self._record(step, undo)

    def _record(self, step: Step, undo: Callable[[], None]) -> Step:
        # Kernels are compiled and libraries get their workspaces before recording.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
            undo()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Not "global": another thread, of a server for one, may allocate meanwhile.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=mode):
            result = step()
        self.pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class RecordedSteps:
    """Steps of one state: what :meth:`DecoderOnlyTransformer.step` does, replayed.

    The logits of a step are overwritten by the next. What cannot be recorded runs step
    by step, which is said, or is a UserError where recording is ``required``.
    """

    def __init__(
        self,
        decoder: DecoderOnlyTransformer,
        state: DecoderState,
        recorder: Recorder,
        required: bool = False,
    ) -> None:
        self.decoder, self.state, self.recorder = decoder, state, recorder
        self.required = required
        self._record()

    def reorder(self, rows: Tensor) -> None:
        """Row i continues what row ``rows[i]`` was; done as the next step begins."""
        self._order.copy_(self._order.index_select(0, rows))

    def select(self, utterances: Tensor) -> None:
        """Keep utterances ``(B',)`` with all their hypotheses, and record anew."""
        self.state.reorder(self._order)
        self.state.select(utterances)
        self._record()

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)`` after one more token ``(N,)``."""
        self.state.timeline.reserve(1)
        self._tokens.copy_(tokens)
        logits = self._replay()
        self._order.copy_(self.state.timeline.rows)
        return logits

    def _record(self) -> None:
        timeline = self.state.timeline
        timeline.all_slots = True
        self._order = timeline.rows.clone()
        self._tokens = torch.zeros_like(timeline.rows)
        if timeline.appended == timeline.capacity:  # no step can follow, nor be tried
            return
        changed = self._tensors()
        saved = [tensor.clone() for tensor in changed]

        def undo() -> None:
            for tensor, old in zip(changed, saved, strict=True):
                tensor.copy_(old)

        try:
            self._replay = self.recorder(self._advance, undo)
        except torch.OutOfMemoryError:
            raise  # for smaller batches, not for slower steps
        except RuntimeError as error:
            undo()
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            if self.required:
                raise UserError(f"cuda_graphs: always given, but {reason}") from error
            log.warning("no CUDA graph, steps are launched one by one: %s", reason)
            self._replay = self._advance

    def _advance(self) -> Tensor:
        timeline = self.state.timeline
        # Tokens are counted where a step is asked for, not where it is recorded.
        counted, timeline.appended = timeline.appended, 0
        try:
            self.state.reorder_in_place(self._order)
            return self.decoder.step(self._tokens, self.state)
        finally:
            timeline.appended = counted

    def _tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [
            self.state.timeline.num_tokens,
            *(part for cache in self.state.caches for part in cache.by_row()),
        ]


class EagerSteps:
    """The same without a recording."""

    def __init__(self, decoder: DecoderOnlyTransformer, state: DecoderState) -> None:
        self.decoder, self.state = decoder, state
        self.reorder, self.select = state.reorder, state.select

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``(N, V)`` after one more token ``(N,)``."""
        return self.decoder.step(tokens, self.state)


def steps_of(
    decoder: DecoderOnlyTransformer, state: DecoderState, cuda_graphs: str
) -> RecordedSteps | EagerSteps:
    """Steps of a new state, recorded: ``always``, ``never``, or on a GPU (``auto``).

    On a CPU weights are packed for many rows (:mod:`.packed`).

    Raises:
        UserError: ``always`` where there is no GPU, or recording fails.
    """
    device = state.timeline.num_tokens.device
    if cuda_graphs == "always" and device.type != "cuda":
        raise UserError(f"cuda_graphs: always given, but the decoder is on {device}")
    if cuda_graphs == "never" or device.type != "cuda":
        return EagerSteps(packed(decoder, len(state.timeline.rows)), state)
    required = cuda_graphs == "always"
    return RecordedSteps(decoder, state, CudaRecorder(), required)

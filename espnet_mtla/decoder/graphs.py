"""A decoding step as one CUDA graph: recorded once for a batch, then replayed.

A step of nine layers launches hundreds of small kernels. Launched one by one they take
the host longer than they take the GPU. A CUDA graph launches all of them in one call.
It replays the recorded kernels with the recorded addresses and shapes, which requires
three things of a step:

- Inputs are copied into buffers of the recording: the tokens, and the order of rows.
- Caches and token counts are changed in place, never replaced.
- No shape depends on the number of tokens so far: ``timeline.all_slots`` lets attention
  read all suffix slots from the start, and masks hide the unwritten ones.

The beams' new order is applied at the beginning of the next step, so that reordering is
part of the recording. Until then it is kept in a buffer.

A recording fits one number of rows. When utterances leave the batch, the smaller batch
is recorded again, which takes the time of one or two steps;
:data:`espnet_mtla.search.beam.LEAVE_AT` keeps the number of sizes low.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from espnet_mtla.decoder.prepacked_linear import prepack_linears
from espnet_mtla.decoder.state import DecoderState
from espnet_mtla.errors import UserError
from espnet_mtla.turns import CUDA

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

    from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

log = logging.getLogger(__name__)
Step = Callable[[], Tensor]


class Recorder(Protocol):
    """Record a function of fixed memory, and return one that replays it."""

    def __call__(self, step: Step, undo: Callable[[], None]) -> Step:
        """Record ``step`` and return its replay; ``undo`` reverts a run of it."""


class CudaRecorder:
    """Record on a CUDA device; all recordings of one recorder share a memory pool."""

    def __init__(self) -> None:
        self.pool: _POOL_HANDLE | None = None

    def __call__(self, step: Step, undo: Callable[[], None]) -> Step:
        with CUDA:
            return self._record(step, undo)

    def _record(self, step: Step, undo: Callable[[], None]) -> Step:
        # Run once before: kernels are compiled and libraries allocate workspaces, which
        # a recording must not do. On another stream, as PyTorch's documentation asks.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
            undo()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The mode "global" would fail if another thread of a server allocates memory.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode=mode):
            result = step()
        self.pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class RecordedSteps:
    """Run :meth:`DecoderOnlyTransformer.step` of one state as a recording.

    The logits of a step are overwritten by the next step.

    Args:
        decoder: in evaluation mode.
        state: its caches are changed in place.
        recorder: records a step.
        required: raise a :class:`UserError` if recording fails. Otherwise a warning is
            logged, and steps run without a recording.
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
        """Let row i continue row ``rows[i]``, from the beginning of the next step."""
        self._order.copy_(self._order.index_select(0, rows))

    def select(self, utterances: Tensor, capacity: int | None = None) -> None:
        """Keep utterances as :meth:`DecoderState.select` does, and record again."""
        self.state.reorder(self._order)
        self.state.select(utterances, capacity)
        self._record()

    def join(self, other: RecordedSteps, utterances: Tensor) -> None:
        """Take utterances in as :meth:`DecoderState.join` does, and record again."""
        self.state.reorder(self._order)
        other.state.reorder(other._order)
        self.state.join(other.state, utterances)
        self._record()

    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` after one more token ``(N,)``."""
        for timeline in self.state.timelines:
            timeline.reserve(1)
        self._tokens.copy_(tokens)
        logits = self._replay()
        self._order.copy_(self.state.timeline.rows)
        return logits

    def _record(self) -> None:
        timeline = self.state.timeline
        for each in self.state.timelines:
            each.all_slots = True
        self._order = timeline.rows.clone()
        self._tokens = torch.zeros_like(timeline.rows)
        if timeline.appended == timeline.capacity:  # full: no step can follow
            return
        changed = self._tensors()
        saved = [tensor.clone() for tensor in changed]

        def undo() -> None:
            for tensor, old in zip(changed, saved, strict=True):
                tensor.copy_(old)

        try:
            self._replay = self.recorder(self._advance, undo)
        except torch.OutOfMemoryError:
            raise  # a smaller batch helps, steps without a recording do not
        except RuntimeError as error:
            undo()
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            if self.required:
                raise UserError(f"cuda_graphs: always given, but {reason}") from error
            log.warning("no CUDA graph, steps are launched one by one: %s", reason)
            self._replay = self._advance

    def _advance(self) -> Tensor:
        """Reorder rows, then run a step: the function that is recorded."""
        # step() of this class counts the token on the host, since a replay does not.
        # The count that the decoder's own step makes is therefore undone.
        timelines = self.state.timelines
        appended = timelines[0].appended
        for timeline in timelines:
            timeline.appended = 0
        try:
            self.state.reorder_in_place(self._order)
            return self.decoder.step(self._tokens, self.state)
        finally:
            for timeline in timelines:
                timeline.appended = appended

    def _tensors(self) -> list[Tensor]:
        """Return all tensors that a step changes."""
        return [
            *(timeline.num_tokens for timeline in self.state.timelines),
            *(part for cache in self.state.caches for part in cache.by_row()),
        ]


class EagerSteps:
    """Run the steps of a state without a recording."""

    def __init__(self, decoder: DecoderOnlyTransformer, state: DecoderState) -> None:
        self.decoder, self.state = decoder, state
        self.reorder, self.select = state.reorder, state.select

    def join(self, other: EagerSteps, utterances: Tensor) -> None:
        """Take utterances in as :meth:`DecoderState.join` does."""
        self.state.join(other.state, utterances)
        rows = len(self.state.timeline.rows)
        self.decoder = prepack_linears(self.decoder, rows)

    def step(self, tokens: Tensor) -> Tensor:
        """Return logits ``(N, V)`` after one more token ``(N,)``."""
        return self.decoder.step(tokens, self.state)


def steps_of(
    decoder: DecoderOnlyTransformer, state: DecoderState, cuda_graphs: str
) -> RecordedSteps | EagerSteps:
    """Return the object that runs the steps of a new state.

    On a CPU, weights are prepacked for many rows (:mod:`.prepacked_linear`).

    Args:
        decoder: in evaluation mode.
        state: as ``prefill`` returned it.
        cuda_graphs: ``auto`` records steps on a GPU; ``always`` does so or raises an
            error; ``never`` does not.

    Raises:
        UserError: ``always``, and there is no GPU or recording fails.
    """
    device = state.timeline.num_tokens.device
    if cuda_graphs == "always" and device.type != "cuda":
        raise UserError(f"cuda_graphs: always given, but the decoder is on {device}")
    if cuda_graphs == "never" or device.type != "cuda":
        return EagerSteps(prepack_linears(decoder, len(state.timeline.rows)), state)
    required = cuda_graphs == "always"
    return RecordedSteps(decoder, state, CudaRecorder(), required)

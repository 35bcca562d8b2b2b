"""The engine: one thread that decodes the sounds of all clients in a running batch.

Between two steps of the batch (:mod:`espnet_mtla.search.running`) results leave it, and
waiting sounds join it, in the order in which they came. A sound joins when the memory
formula of the decoder says that the larger batch fits into the budget. Each sound gets
the text that it would get alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.memory import (
    DECODER_SHARE,
    free_bytes,
    load_bytes,
    utterance_load,
)
from espnet_mtla.recognise.prepare import (
    ctc_log_probs,
    encode,
    prepare,
    why_broken,
)
from espnet_mtla.recognise.recogniser import Recognised, Recogniser
from espnet_mtla.recognise.utterances import Sound, count_frames
from espnet_mtla.search.ctc import best_path
from espnet_mtla.search.history import BrokenScores, Hypothesis
from espnet_mtla.search.hotwords import OwnHotwordScorer
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.search.running import RunningSearch
from espnet_mtla.serve.job import (
    DeadlinePassed,
    Job,
    jobs_of,
    largest_sizes,
    tell_partial,
)
from espnet_mtla.turns import turn_on

if TYPE_CHECKING:
    from espnet_mtla.decoder.memory import Load
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.search.hotwords import Hotwords

logger = logging.getLogger(__name__)

LARGEST_BATCH = 32
"""Utterances in the batch; more rows than this make a CPU no faster."""


@dataclass
class Engine:
    """Decode sounds from any number of threads; see the module's docstring.

    Args:
        trained: the model.
        options: how it decodes. Steps are not recorded as CUDA graphs unless
            ``cuda_graphs`` is ``always``: a recording fits one size of the batch.
        budget: bytes for the decoder; None: a share of the memory that is free now.
        largest_batch: most utterances at once.
    """

    trained: TrainedModel
    options: DecodeOptions
    budget: int | None = None
    largest_batch: int = LARGEST_BATCH

    def __post_init__(self) -> None:
        if self.options.cuda_graphs == "auto":
            self.options = self.options.replaced(cuda_graphs="never")
        self._recogniser = Recogniser(self.trained, self.options)
        free = free_bytes(self.trained.device)
        if self.budget is None and free is not None:
            self.budget = int(DECODER_SHARE * free)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._search: RunningSearch | None = None
        self._sizes = (0, 0)  # frames and tokens that the batch has room for
        self.steps = 0
        self.largest = 0  # utterances that the batch ever had
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # Called by any thread -------------------------------------------------------------

    def submit(
        self,
        sound: Sound,
        *,
        hotwords: Hotwords | None = None,
        deadline: float = float("inf"),
        partial: Callable[[list[int]], None] | None = None,
    ) -> Job:
        """Queue a sound; ``job.future`` gets its hypotheses, or an error.

        Args:
            sound: its samples.
            hotwords: phrases that gain a bonus in this sound alone.
            deadline: time by :func:`time.monotonic`.
            partial: called with the tokens that the result is known to begin with,
                when there are more of them. It must return at once.

        Raises:
            UserError: the sound alone does not fit into the memory.
            RuntimeError: the engine was stopped.
        """
        frames = count_frames(len(sound.samples) / self.trained.fs)
        load = utterance_load(self.trained, self.options, frames)
        if not self._fits(load):
            raise UserError(
                f"{sound.key}: {frames / 100:.1f} s do not fit into the memory of the "
                "server; start it with a smaller --longest_seconds"
            )
        job = Job(sound, load, hotwords, deadline, partial)
        job.future.set_running_or_notify_cancel()  # nobody can cancel it from here on
        with self._changed:
            if self._stopping:
                raise RuntimeError("the engine is stopped")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def drop(self, job: Job) -> None:
        """Give a sound up: it leaves the queue or the batch before the next step."""
        with self._changed:
            job.dropped = True
            self._changed.notify()

    def stop(self) -> None:
        """Finish all sounds that were submitted, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Return False once the thread has ended."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Sounds in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sounds in the batch."""
        search = self._search
        return 0 if search is None else len(search.live)

    # The engine's thread --------------------------------------------------------------

    @torch.inference_mode()
    def _work(self) -> None:
        while self._wait():
            try:
                with turn_on(self.trained.device):
                    self._turn()
            except Exception as error:  # of the whole batch: the server goes on
                logger.exception("a step of the batch failed")
                self._fail(error)

    def _wait(self) -> bool:
        """Wait for something to do; return False when the engine is to end."""
        with self._changed:
            while self._search is None and not self._waiting and not self._stopping:
                self._changed.wait()
            return self._search is not None or bool(self._waiting)

    def _turn(self) -> None:
        """Let sounds leave and join, and extend all hypotheses by one token."""
        self._drop_late()
        self._admit()
        search = self._search
        if search is None:
            return
        if search.compact():
            self._sizes = largest_sizes([job.load for job in jobs_of(search)])
        search.advance()
        self.steps += 1
        for job, outcome in search.collect():
            assert isinstance(job, Job), "keys are jobs"
            self._finish(job, outcome)
        for job in jobs_of(search):
            tell_partial(job, search)
        if not search.live:
            self._search = None

    def _drop_late(self) -> None:
        """Remove sounds that were given up, or whose deadline has passed."""
        now = time.monotonic()
        with self._changed:
            gone = [job for job in self._waiting if job.dropped or job.deadline < now]
            for job in gone:
                self._waiting.remove(job)
        search = self._search
        if search is not None:
            late = [j for j in jobs_of(search) if j.dropped or j.deadline < now]
            search.drop(late)
            gone += late
            if not search.live:
                self._search = None
        for job in gone:
            job.future.set_exception(DeadlinePassed(f"{job.sound.key}: too late"))

    def _admit(self) -> None:
        """Let waiting sounds join, the oldest first, while the batch fits."""
        while True:
            with self._changed:
                if not self._waiting or not self._has_room(self._waiting[0].load):
                    return
                job = self._waiting.popleft()
            try:
                new = self._begin(job)
            except Exception as error:
                if not isinstance(error, UserError):
                    logger.exception("%s: cannot be decoded", job.sound.key)
                job.future.set_exception(error)
                continue
            if new is not None:
                self._join(job, new)

    def _has_room(self, load: Load) -> bool:
        """Return True if the batch fits into the budget with one more utterance."""
        search = self._search
        if search is None:
            return True
        batch = len(search.keys) + (not search.free)
        if len(search.live) >= self.largest_batch:
            return False
        frames, tokens = self._sizes
        frames, tokens = max(frames, load.frames), max(tokens, load.tokens)
        return self._fits(replace(load, batch=batch, frames=frames, tokens=tokens))

    def _fits(self, load: Load) -> bool:
        if self.budget is None:
            return True
        return load_bytes(self.trained, self.options, load) <= self.budget

    def _begin(self, job: Job) -> RunningSearch | None:
        """Encode a sound, and take its first step; None: that was all."""
        trained, recogniser = self.trained, self._recogniser
        job.began = time.monotonic()
        speech = torch.from_numpy(job.sound.samples).to(trained.device).unsqueeze(0)
        lengths = torch.tensor([speech.size(1)], device=trained.device)
        tasks = recogniser.tasks([job.sound])
        encoded = encode(trained.model, speech, lengths, [job.sound.key], tasks)
        job.encoded = encoded
        if encoded.prompt is None:
            log_probs = ctc_log_probs(trained.model, encoded.output)
            [(tokens, score)] = best_path(log_probs, encoded.frames)
            self._finish(job, [Hypothesis(tokens, score, False)])
            return None
        prepared = prepare(trained, self.options, recogniser.fusion, encoded)
        own = OwnHotwordScorer([job.hotwords], self.options.beam_size)
        gain = 0.0 if job.hotwords is None else job.hotwords.largest_gain
        new = RunningSearch(
            [job],
            [*prepared.scorers, (own, 1.0)],
            prepared.limits,
            prepared.symbols,
            self.options,
            prepared.candidate_scorers,
            prepared.token_gain + gain,
        )
        new.advance()
        return new

    def _join(self, job: Job, new: RunningSearch) -> None:
        """Let a sound join the batch; after an error the batch is of no use."""
        if self._search is None:
            self._search, self._sizes = new, (job.load.frames, job.load.tokens)
        else:
            try:
                self._search.join(new)
            except Exception as error:
                job.future.set_exception(error)
                raise
            frames, tokens = self._sizes
            self._sizes = max(frames, job.load.frames), max(tokens, job.load.tokens)
        self.largest = max(self.largest, len(self._search.live))

    def _finish(self, job: Job, outcome: list[Hypothesis] | BrokenScores) -> None:
        """Set the result of a job."""
        encoded, key = job.encoded, job.sound.key
        assert encoded is not None, "it was encoded before its first step"
        if isinstance(outcome, BrokenScores):
            job.future.set_exception(UserError(f"{key}: {why_broken(outcome)}"))
            return
        prompt = encoded.prompt
        job.future.set_result(
            Recognised(
                key,
                len(job.sound.samples) / self.trained.fs,
                int(encoded.frames[0]),
                0 if prompt is None else int(prompt.lengths[0]),
                outcome,
                time.monotonic() - job.began,
            )
        )

    def _fail(self, error: Exception) -> None:
        """Give all running jobs an error, and begin with an empty batch."""
        search, self._search = self._search, None
        for job in [] if search is None else jobs_of(search):
            if not job.future.done():
                job.future.set_exception(error)

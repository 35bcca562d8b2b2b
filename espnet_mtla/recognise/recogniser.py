"""Decode batches of sound to hypotheses, and measure time and memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.model.template import task_ids
from espnet_mtla.recognise.batches import plan_batches
from espnet_mtla.recognise.fusion import load_fusion
from espnet_mtla.recognise.prepare import (
    Encoded,
    ctc_log_probs,
    encode,
    prepare,
    why_broken,
)
from espnet_mtla.recognise.utterances import Sound, count_frames
from espnet_mtla.search.beam import BrokenScores, Hypothesis, beam_search
from espnet_mtla.search.ctc import best_path
from espnet_mtla.search.decoder_scorer import DecoderScorer, cache_options
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.turns import Turns, turn_on

if TYPE_CHECKING:
    from espnet_mtla.model.base import Unit
    from espnet_mtla.recognise.load import TrainedModel

OUT_OF_MEMORY = (
    *("can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""Messages of a ``RuntimeError`` of torch that mean a lack of memory."""


@dataclass(frozen=True)
class Recognised:
    """Hypotheses of one utterance, best first, and its sizes.

    Attributes:
        audio_seconds: length of the input in ``unit``.
        decode_seconds: share of the utterance, by length, in the time of its batch.
        unit: unit of ``audio_seconds``: tokens if the input is a text.
    """

    key: str
    audio_seconds: float
    encoder_frames: int
    prompt_frames: int
    nbest: list[Hypothesis]
    decode_seconds: float
    unit: Unit = "second"


@dataclass
class Costs:
    """Seconds, summed over batches, and bytes of the largest cache of a batch.

    ``wall_seconds`` covers features, encoder and search, but not the reading of files.
    """

    wall_seconds: float = 0.0
    encoder_seconds: float = 0.0
    search_seconds: float = 0.0
    cache_used: int = 0
    cache_formula: int = 0
    cache_allocated: int = 0
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)

    def add_seconds(self, encoder: float, search: float) -> None:
        """Add the times of a batch."""
        with self.turns:
            self.wall_seconds += encoder + search
            self.encoder_seconds += encoder
            self.search_seconds += search

    def note_cache(self, scorer: DecoderScorer) -> None:
        """Update the largest cache with that of a batch."""
        used, formula = scorer.peak_bytes()
        with self.turns:
            self.cache_used = max(self.cache_used, used)
            self.cache_formula = max(self.cache_formula, formula)
            self.cache_allocated = max(self.cache_allocated, scorer.allocated_bytes)


@dataclass
class Recogniser:
    """Decode with beam search, or by CTC's best path if the model has no decoder.

    Any number of threads may call it. On a CPU the encoder runs in one thread at a time
    (:class:`DecoderOnlySpeechModel`) and searches run concurrently; on a GPU calls run
    one after another.

    Raises:
        UserError: the options need a CTC that the model does not have, or files that
            are missing or do not fit (:mod:`espnet_mtla.recognise.fusion`).
    """

    trained: TrainedModel
    options: DecodeOptions
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        self.trained.check_options(self.options)
        self.fusion = load_fusion(self.trained, self.options)

    def in_batches(self, sounds: Sequence[Sound]) -> list[Recognised]:
        """Decode any number of utterances; :func:`plan_batches` forms the batches.

        Returns:
            Results in the order of ``sounds``.
        Raises:
            UserError: see :meth:`__call__`.
        """
        frames = [self._frames(sound) for sound in sounds]
        results: dict[int, Recognised] = {}
        for batch in plan_batches(self.trained, self.options, frames):
            found = self([sounds[index] for index in batch])
            results.update(zip(batch, found, strict=True))
        return [results[index] for index in range(len(sounds))]

    def __call__(self, batch: Sequence[Sound]) -> list[Recognised]:
        """Decode a batch; where memory runs out, decode its halves one after the other.

        Raises:
            UserError: an utterance does not fit into memory by itself, is too short, or
                gets scores that are NaN; names it.
        """
        try:
            return self._decode(batch)
        except torch.OutOfMemoryError:
            pass
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
        # Outside the handlers: the traceback would keep the batch's tensors alive.
        return self._decode_halves(batch)

    def _decode_halves(self, batch: Sequence[Sound]) -> list[Recognised]:
        if self.trained.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            length = f"{self._duration(batch[0]):.1f} s"
            if self.trained.unit == "token":
                length = f"{len(batch[0].samples)} tokens"
            raise UserError(
                f"{batch[0].key}: {length} alone do not fit into the memory of "
                f"{self.trained.device}; lower beam_size or max_length_ratio, or "
                "cut it"
            )
        logging.warning("out of memory with %d utterances: halved", len(batch))
        half = len(batch) // 2
        return self(batch[:half]) + self(batch[half:])

    @torch.inference_mode()
    def _decode(self, batch: Sequence[Sound]) -> list[Recognised]:
        with turn_on(self.trained.device):
            return self._decode_now(batch)

    def _decode_now(self, batch: Sequence[Sound]) -> list[Recognised]:
        keys = [sound.key for sound in batch]
        began = self._now()
        speech, lengths = self._pad(batch)
        encoded = encode(self.trained.model, speech, lengths, keys, self.tasks(batch))
        between = self._now()
        try:
            nbests = self._search(encoded)
        except BrokenScores as error:
            key = keys[error.utterances[0]]
            raise UserError(f"{key}: {why_broken(error)}") from None
        ended = self._now()
        self.costs.add_seconds(between - began, ended - between)
        durations = [self._duration(sound) for sound in batch]
        prompt = encoded.prompt
        prompts = [0] * len(batch) if prompt is None else prompt.lengths.tolist()
        factor, unit = (ended - began) / sum(durations), self.trained.unit
        frames = encoded.frames.tolist()
        columns = zip(keys, durations, frames, prompts, nbests, strict=True)
        return [
            Recognised(key, length, t, p, nbest, length * factor, unit)
            for key, length, t, p, nbest in columns
        ]

    def tasks(self, batch: Sequence[Sound]) -> Tensor | None:
        """Return the index of each input's task (B,); None without a choice."""
        names = [sound.task for sound in batch]
        ids = task_ids(self.trained.model, names, self.options.task_template)
        return None if ids is None else ids.to(self.trained.device)

    def _duration(self, sound: Sound) -> float:
        """Return the length of an input in the model's unit of time."""
        known = sound.seconds
        return len(sound.samples) / self.trained.fs if known is None else known

    def _frames(self, sound: Sound) -> int:
        """Return the length of an input as the option ``batch_frames`` counts it."""
        if self.trained.unit == "token":
            return len(sound.samples)
        return count_frames(self._duration(sound))

    def _pad(self, batch: Sequence[Sound]) -> tuple[Tensor, Tensor]:
        rows = [torch.from_numpy(sound.samples) for sound in batch]
        speech = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return speech.to(self.trained.device), lengths.to(self.trained.device)

    def _search(self, encoded: Encoded) -> list[list[Hypothesis]]:
        if encoded.prompt is None:
            log_probs = ctc_log_probs(self.trained.model, encoded.output)
            paths = best_path(log_probs, encoded.frames)
            return [[Hypothesis(tokens, score, False)] for tokens, score in paths]
        search = prepare(self.trained, self.options, self.fusion, encoded)
        nbests = beam_search(
            search.scorers,
            search.limits,
            search.symbols,
            self.options,
            search.candidate_scorers,
            search.token_gain,
        )
        self.costs.note_cache(search.decoder)
        return nbests

    def cache_bytes(
        self, prompt_frames: int, nbest: Sequence[Hypothesis], beam: int
    ) -> int:
        """Return the bytes of cache that one utterance fills, by formula.

        The cache holds the prompt, <sos> and the tokens of the best hypothesis; <eos>
        is never written.

        Args:
            prompt_frames: length of the utterance's prompt.
            nbest: its hypotheses, best first.
            beam: hypotheses that are kept during the search.
        """
        decoder = self.trained.model.decoder
        if decoder is None:
            return 0
        return decoder.cache_bytes(
            prompt_frames,
            len(nbest[0].tokens) + 1,
            beam=beam,
            share_prompt=self.options.share_prompt,
            itemsize=getattr(torch, self.options.dtype).itemsize,
            options=cache_options(self.options),
        )

    def _now(self) -> float:
        if self.trained.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

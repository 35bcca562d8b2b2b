"""Batches of sound to hypotheses, with what it cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.search.beam import BrokenScores, Hypothesis, Symbols, beam_search
from espnet_mtla.search.ctc import CTCPrefixScorer, best_path
from espnet_mtla.search.decoder_scorer import DecoderScorer, cache_options
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.turns import Turns, turn_on

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel

OUT_OF_MEMORY = (
    *("can't allocate memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""How the CPU and CUDA's libraries say it, which have no exception of their own."""


@dataclass(frozen=True)
class Recognised:
    """Hypotheses of one utterance, best first, and its sizes.

    ``decode_seconds`` is its share, by length, of the time its batch took.
    """

    key: str
    audio_seconds: float
    encoder_frames: int
    prompt_frames: int
    nbest: list[Hypothesis]
    decode_seconds: float


@dataclass
class Costs:
    """Summed over batches: seconds; the largest of all batches: bytes of the caches.

    ``wall_seconds`` runs from samples in memory to tokens: features, encoder and
    search; reading files does not count.
    """

    wall_seconds: float = 0.0
    encoder_seconds: float = 0.0
    search_seconds: float = 0.0
    cache_used: int = 0
    cache_formula: int = 0
    cache_allocated: int = 0
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)

    def add_seconds(self, encoder: float, search: float) -> None:
        """Add what a batch took."""
        with self.turns:
            self.wall_seconds += encoder + search
            self.encoder_seconds += encoder
            self.search_seconds += search

    def note_cache(self, scorer: DecoderScorer) -> None:
        """Keep the largest of what batches took."""
        used, formula = scorer.peak_bytes()
        with self.turns:
            self.cache_used = max(self.cache_used, used)
            self.cache_formula = max(self.cache_formula, formula)
            self.cache_allocated = max(self.cache_allocated, scorer.allocated_bytes)


@dataclass
class Recogniser:
    """Decodes batches with a model whose decoder may be None: then CTC's best path.

    Any number of threads may call it. On a CPU encoders run in one thread at a time
    (:class:`DecoderOnlySpeechModel`), searches beside each other; on a GPU all of it
    runs in one thread at a time.
    """

    trained: TrainedModel
    options: DecodeOptions
    costs: Costs = field(default_factory=Costs)

    def __call__(self, batch: Sequence[Sound]) -> list[Recognised]:
        """Decode a batch, halving it as often as memory demands.

        Raises:
            UserError: An utterance does not fit into memory by itself, is too short, or
                gets scores that are NaN; named.
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
            seconds = self._seconds(batch[0])
            raise UserError(
                f"{batch[0].key}: {seconds:.1f} s alone do not fit into the memory of "
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
        model = self.trained.model
        encoded, frames = model.encode(speech, lengths, keys)
        frames = frames.to(encoded.device)
        prompt = prompt_lens = None
        if model.decoder is not None:
            prompt, prompt_lens = model.project(encoded, frames)
        between = self._now()
        try:
            found = self._search(encoded, frames, prompt, prompt_lens)
        except BrokenScores as error:
            reason = (
                "the model gives it scores that are NaN; look at model.pth (a diverged "
                "training?) or try --dtype float32"
                if error.nan
                else "no text is possible under these options; lower min_length_ratio: "
                "CTC cannot say more tokens than there are frames"
            )
            raise UserError(f"{keys[error.utterances[0]]}: {reason}") from None
        ended = self._now()
        self.costs.add_seconds(between - began, ended - between)
        seconds = [self._seconds(sound) for sound in batch]
        prompts = [0] * len(batch) if prompt_lens is None else prompt_lens.tolist()
        factor = (ended - began) / sum(seconds)
        columns = zip(keys, seconds, frames.tolist(), prompts, found, strict=True)
        return [
            Recognised(key, s, t, p, nbest, s * factor)
            for key, s, t, p, nbest in columns
        ]

    def _seconds(self, sound: Sound) -> float:
        known = sound.seconds
        return len(sound.samples) / self.trained.fs if known is None else known

    def _pad(self, batch: Sequence[Sound]) -> tuple[Tensor, Tensor]:
        rows = [torch.from_numpy(sound.samples) for sound in batch]
        speech = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return speech.to(self.trained.device), lengths.to(self.trained.device)

    def _search(
        self,
        encoded: Tensor,
        frames: Tensor,
        prompt: Tensor | None,
        prompt_lens: Tensor | None,
    ) -> list[list[Hypothesis]]:
        model, options = self.trained.model, self.options
        if model.decoder is None or prompt is None or prompt_lens is None:
            paths = best_path(self._ctc_log_probs(encoded), frames)
            return [[Hypothesis(tokens, score, False)] for tokens, score in paths]
        prompt_lens = prompt_lens.to(prompt.device)
        limits = length_limits(prompt_lens, options)
        scorer = DecoderScorer(
            model.decoder,
            prompt.to(getattr(torch, options.dtype)),
            prompt_lens,
            max_tokens=int(limits[1].max()),
            beam=options.beam_size,
            share_prompt=options.share_prompt,
            cuda_graphs=options.cuda_graphs,
            options=cache_options(options),
        )
        weight = options.ctc_weight
        prefix_scorers = []
        if weight > 0:
            log_probs = self._ctc_log_probs(encoded)
            ctc = CTCPrefixScorer(log_probs, frames, options.beam_size, model.eos)
            prefix_scorers.append((ctc, weight))
        starts = self.trained.word_starts.to(prompt.device)
        symbols = Symbols(
            sos=model.sos,
            eos=model.eos,
            word_starts=starts if options.intent_first else None,
        )
        found = beam_search(
            [(scorer, 1 - weight)], limits, symbols, options, prefix_scorers
        )
        self.costs.note_cache(scorer)
        return found

    def _ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """``(B, T, V)`` of the encoder's output ``(B, T, E)``."""
        if self.trained.model.ctc is None:
            raise UserError(
                f"ctc_weight {self.options.ctc_weight}: the model has no CTC (trained "
                "with model_conf.ctc_weight 0); decode with ctc_weight 0"
            )
        return self.trained.model.ctc.log_softmax(encoded)

    def cache_bytes(
        self, prompt_frames: int, nbest: Sequence[Hypothesis], beam: int
    ) -> int:
        """Bytes that decoding one utterance with its best hypothesis fills, by formula.

        <sos> and all tokens are in the cache; <eos> never is.
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

"""Check on a user's model and data that different ways give the same result.

Everything is computed in float32: a difference beyond rounding is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.diagnose.check_result import (
    CheckResult,
    hypotheses_apart,
    relative,
    worst,
)
from espnet_mtla.diagnose.selftest import decode_stepwise
from espnet_mtla.recognise.options import without_files
from espnet_mtla.recognise.recogniser import Recognised, Recogniser
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import Sound
    from espnet_mtla.search.beam import Hypothesis

    Pair = tuple[str, Sequence[Hypothesis], Sequence[Hypothesis]]

LOG_PROBABILITY = 1e-3
"""Largest difference of a log-probability between two ways to compute it."""
SCORE = 1e-4
"""Largest relative difference of a hypothesis's score, a sum of log-probabilities."""
KERNEL = 1e-4
"""Largest difference of an output of attention between a back-end and PyTorch's."""
NO_DECODER = "the model has no decoder"
NO_SOUND = "the model takes no sound"


@dataclass(frozen=True)
class Prover:
    """All checks of one model.

    Attributes:
        sounds: inputs to decode.
        batch_size: utterances in a batch, for the check of batches.
        folder: where the model was loaded from; checks that load it again need it.
    """

    trained: TrainedModel
    options: DecodeOptions
    sounds: Sequence[Sound]
    batch_size: int = 8
    folder: Path | None = None

    def results(self, only: Sequence[str] = ()) -> Iterator[CheckResult]:
        """Yield the result of each check as it is ready.

        Args:
            only: names of checks (:data:`CHECKS`); empty: all.
        """
        for name, check in CHECKS.items():
            if not only or name in only:
                yield from check(self)

    @cached_property
    def alone(self) -> list[Recognised]:
        """Results of decoding each utterance by itself."""
        recogniser = Recogniser(self.trained, self.options)
        return [result for sound in self.sounds for result in recogniser([sound])]

    def batch_is_single(self) -> Iterator[CheckResult]:
        """Compare each utterance by itself and in a batch with others."""
        together: list[Recognised] = []
        recogniser = Recogniser(self.trained, self.options)
        for first in range(0, len(self.sounds), self.batch_size):
            together += recogniser(self.sounds[first : first + self.batch_size])
        size = min(self.batch_size, len(self.sounds))
        text = f"{len(self.sounds)} utterances alone and {size} at a time"
        pairs = zip(self.alone, together, strict=True)
        both = [(one.key, one.nbest, other.nbest) for one, other in pairs]
        yield _compare("batch = single", text, both, ("alone", "batch"))

    @torch.inference_mode()
    def cached_is_uncached(self) -> Iterator[CheckResult]:
        """Compare steps over the cache with one pass over the whole text."""
        name = "cached = uncached"
        decoder, model = self.trained.model.decoder, self.trained.model
        if decoder is None:
            yield CheckResult(name, NO_DECODER)
            return
        differences, steps = [], 0
        for sound, result in zip(self.sounds, self.alone, strict=True):
            prompt, lengths = self._prompt(sound)
            ids = [[model.sos, *result.nbest[0].tokens]]
            tokens = torch.tensor(ids, device=prompt.device)
            whole = decoder(prompt, lengths, tokens)
            stepped = decode_stepwise(decoder, prompt, lengths, tokens)
            apart = (stepped.log_softmax(-1) - whole.log_softmax(-1)).abs().max()
            differences.append((sound.key, float(apart)))
            steps += tokens.size(1)
        text = f"log-probabilities of {steps} steps"
        yield worst(name, text, differences, LOG_PROBABILITY)

    @torch.inference_mode()
    def beam_1_is_greedy(self) -> Iterator[CheckResult]:
        """Compare a beam of 1 with a greedy loop without cache, batch and search."""
        name = "beam 1 = greedy"
        decoder = self.trained.model.decoder
        if decoder is None:
            yield CheckResult(name, NO_DECODER)
            return
        options = without_files(self.options).replaced(
            beam_size=1, nbest=1, ctc_weight=0.0
        )
        searched = Recogniser(self.trained, options).in_batches(self.sounds)
        both = [
            (sound.key, result.nbest, [self._greedy(decoder, sound, options)])
            for sound, result in zip(self.sounds, searched, strict=True)
        ]
        text = f"{len(both)} utterances, uncached, the decoder alone"
        yield _compare(name, text, both, ("beam 1", "greedy"))

    def _greedy(
        self, decoder: DecoderOnlyTransformer, sound: Sound, options: DecodeOptions
    ) -> Hypothesis:
        """Choose the most probable token again and again, without a cache."""
        from espnet_mtla.search.beam import Hypothesis

        model = self.trained.model
        prompt, lengths = self._prompt(sound)
        tasks = Recogniser(self.trained, self.options).tasks([sound])
        positions = model.sound_positions(lengths, tasks)
        least, most = (int(limit) for limit in length_limits(positions, options))
        tokens, score = [model.sos], 0.0
        in_first_word = options.intent_first
        starts = self.trained.word_starts.to(prompt.device)
        while True:
            ids = torch.tensor([tokens], device=prompt.device)
            log_probs = decoder(prompt, lengths, ids)[0, -1].log_softmax(-1)
            if model.blank != model.eos:
                log_probs[model.blank] = -math.inf
            count = len(tokens) - 1
            if in_first_word:
                in_first_word = _restrict_to_first_word(
                    log_probs, starts, model.eos, first=count == 0, last=count >= most
                )
            if count < least:
                log_probs[model.eos] = -math.inf
            if count >= most:
                log_probs[: model.eos] = -math.inf
                log_probs[model.eos + 1 :] = -math.inf
            best = int(log_probs.argmax())
            score += float(log_probs[best]) + options.length_bonus
            if best == model.eos:
                return Hypothesis(tokens[1:], score, count == most)
            tokens.append(best)

    def _prompt(self, sound: Sound) -> tuple[Tensor, Tensor]:
        """Return the decoder's prompt of one sound, ``(1, P, D)``, and its length."""
        device, model = self.trained.device, self.trained.model
        speech = torch.from_numpy(sound.samples).to(device).unsqueeze(0)
        lengths = torch.tensor([speech.size(1)], device=device)
        encoded, frames = model.encode(speech, lengths, [sound.key])
        tasks = Recogniser(self.trained, self.options).tasks([sound])
        return model.project(encoded, frames.to(device), tasks)

    def cache_is_formula(self) -> Iterator[CheckResult]:
        """Compare the largest number of bytes in the cache with the formula."""
        name = "cache = formula"
        if self.trained.model.decoder is None:
            yield CheckResult(name, NO_DECODER)
            return
        recogniser = Recogniser(self.trained, self.options)
        recogniser.in_batches(self.sounds)
        costs = recogniser.costs
        apart = float(abs(costs.cache_used - costs.cache_formula))
        yield CheckResult(name, f"{costs.cache_used:,} bytes", apart)

    def recipe_is_speech2text(self) -> Iterator[CheckResult]:
        """Compare the recipe's decoding with ``Speech2Text``."""
        name = "recipe = Speech2Text"
        if self.trained.frontend is None:
            yield CheckResult(name, NO_SOUND)
            return
        tasks = self.trained.model.templates
        if tasks and len(tasks.names) > 1 and self.options.task_template is None:
            yield CheckResult(name, "several tasks: choose one by --task_template")
            return
        from espnet_mtla.speech2text import Speech2Text

        speech2text = Speech2Text(self.trained, self.options, longest_seconds=None)
        clips = [
            speech2text.reader.clip(sound.samples, self.trained.fs, sound.key)
            for sound in self.sounds
        ]
        transcripts = dict(speech2text.stream(clips))
        differences = [
            (result.key, apart)
            for index, result in enumerate(self.alone)
            for a, (_, _, ids, b) in zip(result.nbest, transcripts[index], strict=True)
            for apart in [relative(a.score, b.score) if a.tokens == ids else math.inf]
        ]
        yield worst(name, f"{len(transcripts)} utterances", differences, SCORE)

    def recipe_is_generate(self) -> Iterator[CheckResult]:
        """Compare the recipe's decoding with ``generate()`` of Transformers."""
        name = "recipe = generate()"
        if find_spec("transformers") is None:
            yield CheckResult(name, "transformers is not installed: espnet-mtla[hf]")
            return
        if self.folder is None or self.trained.frontend is None:
            yield CheckResult(name, NO_SOUND)
            return
        if self.trained.model.decoder is None:
            yield CheckResult(name, NO_DECODER)
            return
        ours = self.trained.model
        if ours.templates is not None or ours.blank == ours.eos:
            yield CheckResult(name, "not for token_type hf, nor with a template")
            return
        from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq

        model = MTLAForSpeechSeq2Seq.from_packed(self.folder).to(self.trained.device)
        rows = [torch.from_numpy(sound.samples) for sound in self.sounds]
        samples = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ones = [torch.ones_like(row, dtype=torch.long) for row in rows]
        mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
        options = {**asdict(self.options), "nbest": 1}
        device, pad = self.trained.device, model.config.pad_token_id
        ids = model.generate(samples.to(device), mask.to(device), **options).tolist()
        differences = [
            (result.key, 0.0 if tokens == result.nbest[0].tokens else math.inf)
            for row, result in zip(ids, self.alone, strict=True)
            for tokens in [[token for token in row if token != pad]]
        ]
        yield worst(name, f"tokens of {len(rows)} utterances", differences)

    def kernels_are_reference(self) -> Iterator[CheckResult]:
        """Compare each back-end with PyTorch's, over cache entries of this model."""
        from espnet_mtla.diagnose.kernels import compare_backends

        decoder = self.trained.model.decoder
        if decoder is None:
            yield CheckResult("kernel = reference", NO_DECODER)
            return
        attention = decoder.layers[0].attention
        for name, apart, text in compare_backends(
            attention.layout, attention.scale, self.trained.device
        ):
            yield CheckResult(f"{name} = reference", text, apart, KERNEL)


CHECKS: dict[str, Callable[[Prover], Iterator[CheckResult]]] = {
    "batch": Prover.batch_is_single,
    "cache": Prover.cached_is_uncached,
    "greedy": Prover.beam_1_is_greedy,
    "formula": Prover.cache_is_formula,
    "speech2text": Prover.recipe_is_speech2text,
    "generate": Prover.recipe_is_generate,
    "kernel": Prover.kernels_are_reference,
}
"""Checks by the names of the option ``--only``, in the order of the table."""


def _restrict_to_first_word(
    log_probs: Tensor, starts: Tensor, eos: int, first: bool, last: bool
) -> bool:
    """Set tokens that ``intent_first`` does not allow next to -inf, in place.

    Args:
        log_probs: scores of the next token, ``(V,)``.
        starts: True at tokens that begin a word, ``(V,)``.
        eos: index of <eos>, which never goes on with the word.
        first, last: whether it is the first token, and the last that the length allows.
    Returns:
        True if the next token belongs to the first word.
    """
    words = log_probs.clone()
    words[eos] = -math.inf
    best = int(words.argmax())
    ends = bool(starts[best] or log_probs[eos] >= words[best])
    inside = not last and (first or not ends)
    allowed = starts.clone()
    allowed[eos] = True
    if inside:
        allowed = torch.arange(len(log_probs), device=log_probs.device) == best
    log_probs[~allowed] = -math.inf
    return inside


def _compare(
    check: str, compared: str, pairs: Sequence[Pair], ways: tuple[str, str]
) -> CheckResult:
    """Compare hypotheses: equal tokens, and scores that differ by rounding at most.

    Args:
        check: name of the check.
        compared: what was compared.
        pairs: key, hypotheses of one way, and hypotheses of the other.
        ways: names of the two ways.
    """
    differences = [(key, hypotheses_apart(one, other)) for key, one, other in pairs]
    result = worst(check, compared, differences, SCORE)
    details = []
    for (key, one, other), (_, apart) in zip(pairs, differences, strict=True):
        if not apart <= SCORE:
            ranked = list(zip(one, other, strict=False))
            a, b = next((pair for pair in ranked if pair[0] != pair[1]), ranked[0])
            shown = f"{ways[0]} {a.score:.6f} {a.tokens}, {ways[1]} {b.score:.6f} "
            details.append(f"{key}: {shown}{b.tokens}")
    return replace(result, details=tuple(details))

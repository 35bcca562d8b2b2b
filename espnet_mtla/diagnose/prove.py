"""Two ways to the same result, compared on a user's own model and data.

``cached = uncached``, ``batch = single``, ``beam 1 = greedy``, ``recipe =
Speech2Text``, ``recipe = generate()``, ``kernel = reference`` and ``cache =
formula``. Everything is computed in float32, where a difference beyond rounding is a
mistake.
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

from espnet_mtla.diagnose.finding import Finding, hypotheses_apart, relative
from espnet_mtla.recognise.recogniser import Recognised, Recogniser
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import Sound
    from espnet_mtla.search.beam import Hypothesis

STEP = 1e-3
"""Largest difference of a log-probability between two ways to compute it."""
SCORE = 1e-4
"""Largest relative difference of a hypothesis' score, a sum of them."""
KERNEL = 1e-4


@dataclass(frozen=True)
class Prover:
    """All checks of one model over some sounds; ``batch_size`` at a time."""

    trained: TrainedModel
    options: DecodeOptions
    sounds: Sequence[Sound]
    batch_size: int = 8
    folder: Path | None = None
    """Where the model was loaded from, for ways that load it themselves."""

    def findings(self) -> Iterator[Finding]:
        """One after the other, as each is ready."""
        yield self.batch_is_single()
        checks: list[Callable[[], Finding]] = [
            self.cached_is_uncached,
            self.beam_1_is_greedy,
            self.cache_is_formula,
            self.recipe_is_speech2text,
            self.recipe_is_generate,
        ]
        for check in checks:
            yield check()
        yield from self.kernels_are_reference()

    @cached_property
    def alone(self) -> list[Recognised]:
        recogniser = Recogniser(self.trained, self.options)
        return [result for sound in self.sounds for result in recogniser([sound])]

    def batch_is_single(self) -> Finding:
        """An utterance by itself, and in a batch with others."""
        together: list[Recognised] = []
        recogniser = Recogniser(self.trained, self.options)
        for first in range(0, len(self.sounds), self.batch_size):
            together += recogniser(self.sounds[first : first + self.batch_size])
        size = min(self.batch_size, len(self.sounds))
        text = f"{len(self.sounds)} utterances alone and {size} at a time"
        pairs = zip(self.alone, together, strict=True)
        both = [(one.key, one.nbest, other.nbest) for one, other in pairs]
        return _compare("batch = single", text, both)

    @torch.inference_mode()
    def cached_is_uncached(self) -> Finding:
        """A decoder's steps over its cache, and one pass over the whole text."""
        name = "cached = uncached"
        decoder = self.trained.model.decoder
        if decoder is None:
            return Finding(name, "the model has no decoder")
        worst, where, steps = 0.0, "", 0
        for sound, result in zip(self.sounds, self.alone, strict=True):
            prompt, lengths = self._prompt(sound)
            tokens = [self.trained.model.sos, *result.nbest[0].tokens]
            fed = torch.tensor([tokens], device=prompt.device)
            whole = decoder(prompt, lengths, fed)[0]
            state = decoder.prefill(prompt, lengths, max_tokens=len(tokens))
            stepped = torch.cat([decoder.step(token, state) for token in fed.T])
            apart = stepped.log_softmax(-1) - whole.log_softmax(-1)
            difference = float(apart.abs().max())
            if not difference <= worst:
                worst, where = difference, sound.key
            steps += len(tokens)
        return Finding(name, f"log-probabilities of {steps} steps", worst, STEP, where)

    @torch.inference_mode()
    def beam_1_is_greedy(self) -> Finding:
        """The search with a beam of 1, and a plain loop without cache or batch."""
        name = "beam 1 = greedy"
        decoder = self.trained.model.decoder
        if decoder is None:
            return Finding(name, "the model has no decoder")
        options = replace(self.options, beam_size=1, nbest=1, ctc_weight=0.0)
        searched = Recogniser(self.trained, options)(self.sounds)
        both = [
            (sound.key, result.nbest, [self._greedy(decoder, sound, options)])
            for sound, result in zip(self.sounds, searched, strict=True)
        ]
        return _compare(name, f"{len(both)} utterances, uncached", both)

    def _greedy(
        self, decoder: DecoderOnlyTransformer, sound: Sound, options: DecodeOptions
    ) -> Hypothesis:
        """The likeliest token again and again, everything computed anew each time."""
        from espnet_mtla.search.beam import Hypothesis

        model = self.trained.model
        prompt, lengths = self._prompt(sound)
        least, most = (int(limit) for limit in length_limits(lengths, options))
        tokens, score = [model.sos], 0.0
        while True:
            fed = torch.tensor([tokens], device=prompt.device)
            chances = decoder(prompt, lengths, fed)[0, -1].log_softmax(-1)
            chances[0] = -math.inf  # <blank>
            count = len(tokens) - 1
            if count < least:
                chances[model.eos] = -math.inf
            if count >= most:
                chances[: model.eos] = -math.inf
            best = int(chances.argmax())
            score += float(chances[best]) + options.length_bonus
            if best == model.eos:
                return Hypothesis(tokens[1:], score, count == most)
            tokens.append(best)

    def _prompt(self, sound: Sound) -> tuple[Tensor, Tensor]:
        """The decoder's prompt of one sound, ``(1, P, D)``, and its length."""
        device, model = self.trained.device, self.trained.model
        speech = torch.from_numpy(sound.samples).to(device).unsqueeze(0)
        lengths = torch.tensor([speech.size(1)], device=device)
        encoded, frames = model.encode(speech, lengths, [sound.key])
        return model.project(encoded, frames.to(device))

    def cache_is_formula(self) -> Finding:
        """Bytes that the cache holds at its fullest, and what is computed for it."""
        name = "cache = formula"
        recogniser = Recogniser(self.trained, self.options)
        if self.trained.model.decoder is None:
            return Finding(name, "the model has no decoder")
        recogniser(self.sounds)
        costs = recogniser.costs
        apart = abs(costs.cache_used - costs.cache_formula)
        return Finding(name, f"{costs.cache_used:,} bytes", float(apart), 0.0)

    def recipe_is_speech2text(self) -> Finding:
        """What the recipe's own command computes, and the Python call."""
        name = "recipe = Speech2Text"
        if self.trained.frontend is None:
            return Finding(name, "the model takes no sound")
        from espnet_mtla.speech2text import Speech2Text

        speech2text = Speech2Text(self.trained, self.options, longest_seconds=None)
        plain = [(sound.samples, sound.key) for sound in self.sounds]
        clips = [
            speech2text.reader.clip(samples, self.trained.fs, key)
            for samples, key in plain
        ]
        found = dict(speech2text.stream(clips))
        names = self.trained.model.token_list
        worst, where = 0.0, ""
        for place, result in enumerate(self.alone):
            apart = 0.0
            for a, b in zip(result.nbest, found[place].nbest, strict=True):
                same = [names[token] for token in a.tokens] == list(b.tokens)
                apart = max(apart, relative(a.score, b.score) if same else math.inf)
            if not apart <= worst:
                worst, where = apart, result.key
        return Finding(name, f"{len(found)} utterances", worst, SCORE, where)

    def recipe_is_generate(self) -> Finding:
        """What the recipe's own command computes, and Transformers' ``generate()``."""
        name = "recipe = generate()"
        if find_spec("transformers") is None:
            return Finding(name, "transformers is not installed: espnet-mtla[hf]")
        if self.folder is None or self.trained.frontend is None:
            return Finding(name, "the model takes no sound")
        if self.trained.model.decoder is None:
            return Finding(name, "the model has no decoder")
        from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq

        model = MTLAForSpeechSeq2Seq.from_packed(self.folder).to(self.trained.device)
        rows = [torch.from_numpy(sound.samples) for sound in self.sounds]
        samples = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.zeros_like(samples, dtype=torch.long)
        for row, one in zip(mask, rows, strict=True):
            row[: len(one)] = 1
        device = self.trained.device
        ids = model.generate(
            samples.to(device), mask.to(device), **{**asdict(self.options), "nbest": 1}
        )
        worst, where = 0.0, ""
        pad = model.config.pad_token_id
        for row, result in zip(ids.tolist(), self.alone, strict=True):
            if [token for token in row if token != pad] != result.nbest[0].tokens:
                worst, where = math.inf, result.key
        return Finding(name, f"tokens of {len(rows)} utterances", worst, 0.0, where)

    def kernels_are_reference(self) -> Iterator[Finding]:
        """Each back-end on this device, and PyTorch's, over entries of this model."""
        from espnet_mtla.diagnose.kernels import compare_backends

        decoder = self.trained.model.decoder
        if decoder is None:
            yield Finding("kernel = reference", "the model has no decoder")
            return
        attention = decoder.layers[0].attention
        for name, apart, text in compare_backends(
            attention.layout, attention.scale, self.trained.device
        ):
            yield Finding(f"{name} = reference", text, apart, KERNEL)


def _compare(
    check: str,
    text: str,
    both: Sequence[tuple[str, Sequence[Hypothesis], Sequence[Hypothesis]]],
) -> Finding:
    """Key, hypotheses of one way and of the other: tokens equal, scores close."""
    worst, where = 0.0, ""
    for key, one, other in both:
        apart = hypotheses_apart(one, other)
        if not apart <= worst:
            worst, where = apart, key
    return Finding(check, text, worst, SCORE, where)

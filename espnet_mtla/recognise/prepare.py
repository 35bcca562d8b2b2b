"""From a batch of sounds to the scorers of its search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.recognise.fusion import Fusion
from espnet_mtla.search.beam import Symbols
from espnet_mtla.search.ctc import CTCPrefixScorer
from espnet_mtla.search.decoder_scorer import DecoderScorer, cache_options
from espnet_mtla.search.history import BrokenScores
from espnet_mtla.search.interface import JoinableScorer
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.model.base import DecoderOnlyModel
    from espnet_mtla.recognise.load import TrainedModel


@dataclass(frozen=True)
class Prompt:
    """Prompts of a batch.

    Attributes:
        frames: ``(B, P, D)``, padded at the end.
        lengths: valid frames, ``(B,)``.
        sound_lens: those that come from the sound, ``(B,)``.
    """

    frames: Tensor
    lengths: Tensor
    sound_lens: Tensor


@dataclass(frozen=True)
class Encoded:
    """A batch after the encoder.

    Attributes:
        output: ``(B, T, E)``, padded at the end.
        frames: valid frames, ``(B,)``.
        prompt: None: the model has no decoder.
    """

    output: Tensor
    frames: Tensor
    prompt: Prompt | None


@dataclass(frozen=True)
class Prepared:
    """The arguments of a search, and the decoder among its scorers."""

    decoder: DecoderScorer
    scorers: list[tuple[JoinableScorer, float]]
    candidate_scorers: list[tuple[CTCPrefixScorer, float]]
    limits: tuple[Tensor, Tensor]
    symbols: Symbols
    token_gain: float


def encode(
    model: DecoderOnlyModel,
    speech: Tensor,
    lengths: Tensor,
    keys: Sequence[str],
    tasks: Tensor | None,
) -> Encoded:
    """Run the encoder, and compute the prompts of a model with a decoder.

    Args:
        model: in evaluation mode.
        speech: ``(B, n)`` samples, or ``(B, n, width)`` features.
        lengths: valid samples, ``(B,)``.
        keys: names of the utterances, for errors.
        tasks: index of each utterance's task, ``(B,)``; None: there is no choice.
    """
    output, frames = model.encode(speech, lengths, keys)
    frames = frames.to(output.device)
    if model.decoder is None:
        return Encoded(output, frames, None)
    prompt, prompt_lens = model.project(output, frames, tasks)
    sound_lens = model.sound_positions(prompt_lens, tasks).to(prompt.device)
    return Encoded(
        output, frames, Prompt(prompt, prompt_lens.to(prompt.device), sound_lens)
    )


def prepare(
    trained: TrainedModel, options: DecodeOptions, fusion: Fusion, encoded: Encoded
) -> Prepared:
    """Return the scorers of a batch: the prompts are computed by the decoder.

    Args:
        trained: a model with a decoder.
        options: how it decodes.
        fusion: language models and hotwords.
        encoded: the batch.
    """
    model, prompt = trained.model, encoded.prompt
    assert model.decoder is not None and prompt is not None, "the caller checks it"
    limits = length_limits(prompt.sound_lens, options)
    decoder = DecoderScorer(
        model.decoder,
        prompt.frames.to(getattr(torch, options.dtype)),
        prompt.lengths,
        max_tokens=int(limits[1].max()),
        beam=options.beam_size,
        share_prompt=options.share_prompt,
        cuda_graphs=options.cuda_graphs,
        options=cache_options(options),
    )
    weight = options.ctc_weight
    candidate_scorers: list[tuple[CTCPrefixScorer, float]] = []
    if weight > 0:
        log_probs, beam = ctc_log_probs(model, encoded.output), options.beam_size
        ctc = CTCPrefixScorer(log_probs, encoded.frames, beam, model.eos)
        candidate_scorers.append((ctc, weight))
    others = fusion.scorers(len(prompt.frames), int(limits[1].max()), options)
    return Prepared(
        decoder,
        [(decoder, 1 - weight), *others],
        candidate_scorers,
        limits,
        _symbols(trained, options, prompt.frames.device),
        fusion.token_gain,
    )


def _symbols(
    trained: TrainedModel, options: DecodeOptions, device: torch.device
) -> Symbols:
    model, starts = trained.model, trained.word_starts.to(device)
    return Symbols(
        sos=model.sos,
        eos=model.eos,
        blank=model.blank,
        word_starts=starts if options.intent_first else None,
    )


def ctc_log_probs(model: DecoderOnlyModel, output: Tensor) -> Tensor:
    """Return ``(B, T, V)`` for the encoder's output ``(B, T, E)``."""
    assert model.ctc is not None, "TrainedModel.check_options refuses such models"
    return model.ctc.log_softmax(output)


def why_broken(error: BrokenScores) -> str:
    """Return what is the matter with scores, for the user."""
    if error.nan:
        return (
            "the model computes scores that are NaN; its training may have diverged, "
            "or --dtype float32 helps"
        )
    return (
        "no text is possible under these options; lower min_length_ratio: CTC cannot "
        "say more tokens than there are frames"
    )

"""Times of words: CTC's most probable alignment of a token sequence.

torchaudio computes the path; this module converts it to words and seconds. CTC emits a
token in one or a few frames, not for as long as it sounds. Therefore a word extends
from the first frame of its first token to the last frame of its last token.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.errors import UserError
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.speech2text.result import Word
from espnet_mtla.turns import turn_on

if TYPE_CHECKING:
    import numpy as np

    from espnet_mtla.recognise.load import TrainedModel


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenSpan:
    """Encoder frames ``first`` to ``last`` of one token, and its log-probability."""

    first: int
    last: int
    score: float


def align(log_probs: Tensor, tokens: Sequence[int], blank: int = 0) -> list[TokenSpan]:
    """Return the frames of each token in CTC's most probable alignment.

    Args:
        log_probs: ``(T, V)`` of one utterance.
        tokens: token ids.
        blank: id of the blank.
    Raises:
        ValueError: fewer frames than :func:`frames_needed`.
    """
    from torchaudio.functional import forced_align

    if frames_needed(tokens) > len(log_probs):
        raise ValueError(f"{len(tokens)} tokens in {len(log_probs)} frames")
    if not tokens:
        return []
    labels = torch.tensor([tokens], dtype=torch.int32, device=log_probs.device)
    path, scores = forced_align(log_probs.float().unsqueeze(0), labels, blank=blank)
    spans: list[TokenSpan] = []
    before, total, first = blank, 0.0, 0
    for frame, (label, score) in enumerate(
        zip([*path[0].tolist(), blank], [*scores[0].tolist(), 0.0], strict=True)
    ):
        if label != before:
            if before != blank:
                spans.append(TokenSpan(first, frame - 1, total))
            first, total = frame, 0.0
        before, total = label, total + score
    if len(spans) != len(tokens):
        raise AssertionError(f"{len(tokens)} tokens in, {len(spans)} spans out")
    return spans


def frames_needed(tokens: Sequence[int]) -> int:
    """Return the least number of frames for an alignment.

    Each token needs a frame, and equal neighbours a blank between them.

    >>> frames_needed([5, 5, 7])
    4
    """
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def spread(words: Sequence[str], seconds: float) -> list[Word]:
    """Return words of equal length over ``seconds``, with confidence 0."""
    step = seconds / max(1, len(words))
    ends = [round(place * step, 3) for place in range(len(words) + 1)]
    return [
        Word(text, start, end, 0.0)
        for text, (start, end) in zip(words, pairwise(ends), strict=True)
    ]


def group_words(
    tokens: Sequence[str], to_text: Callable[[Sequence[str]], str]
) -> list[tuple[str, list[int]]]:
    """Return the words of the text, each with the indices of its tokens.

    A token belongs to the last word of the text up to this token. A token that does not
    change the text, such as a space, belongs to none.
    """
    words = to_text(tokens).split()
    places: list[list[int]] = [[] for _ in words]
    before = ""
    for place in range(len(tokens)):
        text = to_text(tokens[: place + 1]).strip()
        if text and text != before:
            places[min(len(text.split()), len(words)) - 1].append(place)
        before = text
    return [(word, at) for word, at in zip(words, places, strict=True) if at]


@dataclass(frozen=True)
class WordTimes:
    """Compute the times of a hypothesis's words with the model's CTC.

    Raises:
        UserError: the model has no CTC, or one of another text than it writes.
    """

    trained: TrainedModel

    def __post_init__(self) -> None:
        if self.trained.model.ctc is None:
            raise UserError(
                "timestamps: the model has no CTC (trained with model_conf.ctc_weight "
                "0), which they need"
            )
        if self.trained.source_text:
            raise UserError(
                "timestamps: the model's CTC tells the words spoken, not those written"
            )

    @torch.inference_mode()
    def __call__(
        self, key: str, samples: np.ndarray, tokens: Sequence[int]
    ) -> list[Word]:
        """Return the words of ``tokens`` with their times in ``samples (n,)``."""
        with turn_on(self.trained.device):
            return self._align(key, samples, tokens)

    def _align(
        self, key: str, samples: np.ndarray, tokens: Sequence[int]
    ) -> list[Word]:
        trained = self.trained
        speech = torch.from_numpy(samples).to(trained.device).unsqueeze(0)
        lengths = torch.tensor([speech.size(1)], device=trained.device)
        encoded, frames = trained.model.encode(speech, lengths, [key])
        assert trained.model.ctc is not None, "__post_init__ refuses such models"
        log_probs = trained.model.ctc.log_softmax(encoded)[0, : int(frames[0])]
        model = trained.model
        shift = seconds_per_frame(trained.fs, model.frontend, model.encoder)
        longest = len(samples) / trained.fs
        if frames_needed(tokens) > len(log_probs):
            logger.warning(
                "%s: %d tokens cannot be aligned with %d encoder frames (a hypothesis "
                "that repeats itself?): its words are spread evenly, with confidence 0",
                *(key, len(tokens), len(log_probs)),
            )
            return spread(trained.to_text(self._names(tokens)).split(), longest)
        spans = align(log_probs, tokens)
        words = []
        for text, places in group_words(self._names(tokens), trained.to_text):
            of_word = [spans[place] for place in places]
            count = sum(span.last - span.first + 1 for span in of_word)
            start = of_word[0].first * shift
            end = min((of_word[-1].last + 1) * shift, longest)
            score = sum(span.score for span in of_word) / count
            words.append(Word(text, round(start, 3), round(end, 3), math.exp(score)))
        return words

    def _names(self, tokens: Sequence[int]) -> list[str]:
        return [self.trained.model.token_list[token] for token in tokens]

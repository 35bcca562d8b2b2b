"""Language models and hotwords that take part in the search, loaded from files.

Each is a scorer with a weight that is added to the decoder's and CTC's scores
("shallow fusion"), as in ESPnet: score += weight * log p(token).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from espnet_mtla.data.tokens import SPACE, UNK
from espnet_mtla.errors import UserError
from espnet_mtla.search.backoff import BackoffAutomaton, BackoffScorer
from espnet_mtla.search.decoder_scorer import DecoderScorer
from espnet_mtla.search.hotwords import Boundaries, Hotwords, HotwordScorer
from espnet_mtla.search.interface import JoinableScorer
from espnet_mtla.search.ngram import ngram_automaton, read_arpa
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.text_files import read_text

if TYPE_CHECKING:
    from espnet_mtla.decoder import DecoderOnlyTransformer
    from espnet_mtla.recognise.load import TrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fusion:
    """What takes part in the search beside decoder and CTC; None: it does not."""

    lm: DecoderOnlyTransformer | None = None
    ngram: BackoffAutomaton | None = None
    hotwords: Hotwords | None = None

    @property
    def token_gain(self) -> float:
        """The most that one token can add to a score."""
        return 0.0 if self.hotwords is None else self.hotwords.largest_gain

    def scorers(
        self, batch: int, max_tokens: int, options: DecodeOptions
    ) -> list[tuple[JoinableScorer, float]]:
        """Return the scorers of one search, with their weights.

        Args:
            batch: utterances.
            max_tokens: most tokens of an utterance, without <eos>.
            options: weights and beam.
        """
        scorers: list[tuple[JoinableScorer, float]] = []
        beam = options.beam_size
        if self.lm is not None:
            weight = self.lm.embedding.weight
            scorer = DecoderScorer(
                self.lm,
                weight.new_zeros(batch, 0, weight.size(1)),  # an empty prompt
                torch.zeros(batch, dtype=torch.long, device=weight.device),
                max_tokens,
                beam,
                cuda_graphs=options.cuda_graphs,
            )
            scorers.append((scorer, options.lm_weight))
        if self.ngram is not None:
            ngram = BackoffScorer(self.ngram, batch, beam)
            scorers.append((ngram, options.ngram_weight))
        if self.hotwords is not None:
            scorers.append((HotwordScorer(self.hotwords, batch, beam), 1.0))
        return scorers


def load_fusion(trained: TrainedModel, options: DecodeOptions) -> Fusion:
    """Load what the options name; once for a model, then from ``trained.fusions``.

    Raises:
        UserError: a file is missing, broken, or does not fit the model.
    """
    for name in ("lm", "ngram"):
        path, weight = getattr(options, name), getattr(options, f"{name}_weight")
        if weight and path is None:
            raise UserError(f"{name}_weight {weight}: --{name} is missing")
        if path is not None and not weight:
            logger.warning("%s %s is not used: %s_weight is 0", name, path, name)
    lm = options.lm if options.lm_weight else None
    ngram = options.ngram if options.ngram_weight else None
    hotwords = options.hotwords if options.hotword_bonus else None
    if lm is ngram is hotwords is None:
        return Fusion()
    if trained.model.decoder is None:
        raise UserError(
            "lm, ngram, hotwords: the model has no decoder, and CTC's best path is not "
            "a search; leave them out"
        )
    key = (lm, ngram, hotwords, options.hotword_bonus, options.dtype, trained.device)
    if key not in trained.fusions:
        trained.fusions[key] = Fusion(
            None if lm is None else _load_lm(Path(lm), trained, options.dtype),
            None if ngram is None else _load_ngram(ngram, trained),
            None
            if hotwords is None
            else load_hotwords(hotwords, options.hotword_bonus, trained),
        )
    return trained.fusions[key]


def _load_ngram(path: str, trained: TrainedModel) -> BackoffAutomaton:
    ngrams, model = read_arpa(path), trained.model
    try:
        return ngram_automaton(ngrams, model.token_list, model.eos).to(trained.device)
    except UserError as error:
        raise UserError(f"ngram {path}: {error}") from None


def load_hotwords(
    source: str | Sequence[str], bonus: float, trained: TrainedModel
) -> Hotwords:
    """Return the hotwords of a file or a list.

    Args:
        source: file with a phrase a line, or the phrases.
        bonus: what a whole phrase adds to the score, natural logarithm.
        trained: gives the tokens.

    Raises:
        UserError: no phrase, or the token list lacks a symbol of one.
    """
    phrases = [phrase_tokens(phrase, trained) for phrase in read_phrases(source)]
    starts = trained.word_starts.tolist()
    boundaries = word_boundaries(trained.model.token_list, starts)
    hotwords = Hotwords(phrases, bonus, boundaries, trained.model.eos)
    return hotwords.to(trained.device)


def _load_lm(path: Path, trained: TrainedModel, dtype: str) -> DecoderOnlyTransformer:
    """Load a language model in evaluation mode, in precision ``dtype``."""
    from espnet_mtla.model.build import load_model
    from espnet_mtla.model.files import locate_weights
    from espnet_mtla.model.language import DecoderOnlyLanguageModel
    from espnet_mtla.settings.names import CONFIG

    try:
        weights = path if path.is_file() else locate_weights(path)
    except UserError as error:
        raise UserError(f"lm: {error}") from None
    config, device = weights.parent / CONFIG, str(trained.device)
    model, _ = load_model(config, weights, device=device)
    if not isinstance(model, DecoderOnlyLanguageModel):
        raise UserError(
            f"lm {path}: not a language model (espnet-mtla train --task lm makes one)"
        )
    ours, theirs = trained.model.token_list, model.token_list
    if ours != theirs:
        raise UserError(
            f"lm {path}: its token list ({len(theirs)} tokens) is not the model's "
            f"({len(ours)}); train both with one list"
        )
    return model.eval().decoder.to(getattr(torch, dtype))


def read_phrases(source: str | Sequence[str]) -> list[str]:
    """Return the phrases of a file with one a line, or of a list.

    Raises:
        UserError: no such file, or no phrase in it.
    """
    if not isinstance(source, str):
        return list(source)
    lines = read_text(source, "hotwords: ").splitlines()
    phrases = [line.strip() for line in lines if line.strip()]
    if not phrases:
        raise UserError(f"hotwords: {source}: no phrase in it")
    return phrases


def phrase_tokens(phrase: str, trained: TrainedModel) -> list[int]:
    """Return the token ids of a phrase.

    Raises:
        UserError: the token list lacks a symbol of it.
    """
    if trained.token_ids is None:
        raise UserError(
            "hotwords: a model of Transformers' classes has no tokeniser; use "
            "espnet_mtla.Speech2Text"
        )
    tokens = trained.token_ids(phrase)
    if UNK in (trained.model.token_list[token] for token in tokens):
        raise UserError(f"hotwords: {phrase!r}: the token list lacks a symbol of it")
    return tokens


def word_boundaries(
    token_list: Sequence[str], word_starts: Sequence[bool]
) -> Boundaries:
    """Return where words end and begin.

    Characters have <space> between words. Pieces show the beginning of a word
    themselves. Without either, as in scripts without spaces, each token is a word.

    >>> word_boundaries(["a", "▁b"], [False, True])
    Boundaries(ends_before=[False, True], begins_after=[True, True])
    """
    if SPACE in token_list:
        spaces = [token == SPACE for token in token_list]
        return Boundaries(spaces, spaces)
    anywhere = [True] * len(token_list)
    return Boundaries(list(word_starts) if any(word_starts) else anywhere, anywhere)

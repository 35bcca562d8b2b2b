"""Beam search over many utterances and hypotheses at once. Needs torch alone."""

from espnet_mtla.search.beam import BrokenScores, Hypothesis, Symbols, beam_search
from espnet_mtla.search.ctc import CTCPrefixScorer, best_path
from espnet_mtla.search.decoder_scorer import DecoderScorer
from espnet_mtla.search.interface import CandidateScorer, Scorer
from espnet_mtla.search.options import DecodeOptions, length_limits

__all__ = [
    "BrokenScores",
    "CTCPrefixScorer",
    "CandidateScorer",
    "DecodeOptions",
    "DecoderScorer",
    "Hypothesis",
    "Scorer",
    "Symbols",
    "beam_search",
    "best_path",
    "length_limits",
]

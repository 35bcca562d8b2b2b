"""Beam search over many utterances and hypotheses at once. Needs torch alone.

Importing the package imports nothing else, so that a command's ``--help`` can read the
options without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module

_PUBLIC = {
    "BrokenScores": "history",
    "CTCPrefixScorer": "ctc",
    "CandidateScorer": "interface",
    "DecodeOptions": "options",
    "DecoderScorer": "decoder_scorer",
    "Hypothesis": "history",
    "Scorer": "interface",
    "Symbols": "beam",
    "beam_search": "beam",
    "best_path": "ctc",
    "length_limits": "limits",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__

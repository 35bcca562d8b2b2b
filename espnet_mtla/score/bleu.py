"""BLEU and chrF from sacrebleu, with bootstrap intervals and comparisons.

Papineni et al., 2002; Popovic, 2015; settings and reporting follow Post, 2018. Texts
are passed cased and detokenised: sacrebleu tokenises both sides in the same way.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from espnet_mtla.errors import UserError
from espnet_mtla.score.bootstrap import compare, percentiles
from espnet_mtla.score.listing import lowest
from espnet_mtla.score.metric import (
    Report,
    Request,
    comparison_line,
    empty_references,
)
from espnet_mtla.score.table import aligned


class _Counted(Metric):
    """A sacrebleu metric that exposes the counts of each sentence."""

    def counts(self, hyps: list[str], refs: list[list[str | None]]) -> np.ndarray:
        """Return the counts of N sentences, (C, N)."""
        # sacrebleu takes None where a sentence has fewer references than others.
        counts = self._extract_corpus_statistics(hyps, refs)  # type: ignore[arg-type]
        return np.array(counts).T

    def of(self, sums: np.ndarray) -> np.ndarray:
        """Compute R scores from summed counts, (C, R) -> (R,)."""
        return np.array([self._compute_score_from_stats(list(s)).score for s in sums.T])


class Bleu(_Counted, BLEU):
    """BLEU; C = 10: hypothesis and reference length, 4 matched, 4 total n-grams."""


class Chrf(_Counted, CHRF):
    """chrF; C = 18: hypothesis, reference and matched n-grams for n = 1 to 6."""


@cache
def _plain() -> Bleu:
    return Bleu()


def bleu_of(sums: np.ndarray) -> np.ndarray:
    """Compute BLEU from summed counts, (10, R) -> (R,), for any tokenisation."""
    return _plain().of(sums)


def bleu_report(request: Request) -> Report:
    """Score a request with BLEU and chrF; two systems are compared by BLEU."""
    # sacrebleu warns about tokenised input by line number, which has no meaning here.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    meaning = "what is said there counts in length and n-grams, and matches nothing"
    empty, note = empty_references(request, meaning)
    bleu, chrf = _bleu(request), Chrf(lowercase=request.lowercase)
    streams = _streams(request)
    counts = bleu.counts(list(request.hyps), streams)
    characters = chrf.counts(list(request.hyps), streams)
    draws = {"resamples": request.resamples, "seed": request.seed}
    whole = bleu._compute_score_from_stats(list(counts.sum(1)))
    words = [len(ref.split()) for ref in request.refs]
    summary: dict[str, Any] = {
        "metric": "bleu",
        "utterances": len(request.keys),
        "ref_words": sum(words),
        "empty_refs": empty,
        "bleu": whole.score,
        "ci95": list(percentiles(counts, bleu.of, **draws)),
        "precisions": list(whole.precisions),
        "brevity_penalty": whole.bp,
        "length_ratio": whole.ratio,
        "signature": str(bleu.get_signature()),
        "chrf": float(chrf.of(characters.sum(1, keepdims=True))[0]),
        "chrf_ci95": list(percentiles(characters, chrf.of, **draws)),
        "chrf_signature": str(chrf.get_signature()),
    }
    parts = [_table(summary), note, _signatures(summary)]
    if request.others is not None:
        base = bleu.counts(list(request.others), streams)
        difference = compare(counts, base, bleu.of, True, **draws)
        other = float(bleu.of(base.sum(1, keepdims=True))[0])
        summary["compare"] = {"bleu": other, **vars(difference)}
        parts.append(comparison_line("BLEU", summary["bleu"], other, difference))
    single = chrf.of(characters)
    rows = zip(request.keys, words, counts.T.tolist(), single, strict=True)
    utterances = [
        {"key": key, "ref_words": n, "bleu_counts": row, "chrf": round(float(one), 2)}
        for key, n, row, one in rows
    ]
    terminal = "\n\n".join(part for part in parts if part)
    listing = lowest(request, single, "chrF", terminal)
    return Report(summary, utterances, terminal, listing)


def _bleu(request: Request) -> Bleu:
    try:
        return Bleu(lowercase=request.lowercase, tokenize=request.tokenize)
    except (KeyError, ImportError, ValueError, RuntimeError) as error:
        known = ", ".join(sorted(BLEU.TOKENIZERS))
        raise UserError(
            f"--tokenize {request.tokenize}: cannot be used here ({error}); sacrebleu "
            f"knows {known}"
        ) from None


def _streams(request: Request) -> list[list[str | None]]:
    """Return one list per reference set, padded with None, as sacrebleu expects."""
    rows = [request.references(index) for index in range(len(request.keys))]
    most = max(map(len, rows))
    return [[row[i] if i < len(row) else None for row in rows] for i in range(most)]


def _table(summary: dict[str, Any]) -> str:
    header = ["", "score", "95 % interval"]
    rows = [
        [name, f"{summary[key]:.2f}", "{:.2f} to {:.2f}".format(*summary[interval])]
        for name, key, interval in (
            ("BLEU", "bleu", "ci95"),
            ("chrF", "chrf", "chrf_ci95"),
        )
    ]
    each = "/".join(f"{p:.1f}" for p in summary["precisions"])
    count = f"{summary['utterances']:,} utterances, {summary['ref_words']:,} words"
    return (
        f"{aligned(header, rows)}\n\n{count}; 1- to 4-grams {each}, brevity penalty "
        f"{summary['brevity_penalty']:.3f}, length ratio {summary['length_ratio']:.3f}"
    )


def _signatures(summary: dict[str, Any]) -> str:
    return f"BLEU {summary['signature']}\nchrF {summary['chrf_signature']}"

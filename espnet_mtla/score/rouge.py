"""ROUGE-1, -2 and -L from rouge-score, with bootstrap intervals and comparisons.

Scores are F1 in percent, averaged over utterances (Lin, 2004). With several references,
the best one counts for each of the three variants. rouge-score compares lower-cased
runs of a-z and 0-9, so it is meaningless for other alphabets. A reference without such
a run scores 0, as in rouge-score.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from espnet_mtla.score.bootstrap import compare, percentiles, ratio
from espnet_mtla.score.listing import lowest
from espnet_mtla.score.metric import (
    Report,
    Request,
    comparison_line,
    empty_references,
)
from espnet_mtla.score.table import aligned

KINDS = {
    "rouge1": ("ROUGE-1", "ci95"),
    "rouge2": ("ROUGE-2", "rouge2_ci95"),
    "rougeL": ("ROUGE-L", "rougeL_ci95"),
}
"""rouge-score's name -> (name in tables, key of the interval in score.json)."""


def rouge_report(request: Request) -> Report:
    """Compute mean ROUGE-1, -2 and -L; two systems are compared in each of them."""
    tokenizer = DefaultTokenizer(request.stem)
    empty, note = empty_references(
        request, "they score 0", tokenizer.tokenize, "a word of a-z or 0-9"
    )
    scores = _scores(request, request.hyps)
    draws: dict[str, Any] = {"resamples": request.resamples, "seed": request.seed}
    words = [len(ref.split()) for ref in request.refs]
    summary: dict[str, Any] = {
        "metric": "rouge",
        "utterances": len(request.keys),
        "ref_words": sum(words),
        "empty_refs": empty,
        "signature": _signature(request),
    }
    ones = np.ones(len(request.keys))
    for (variant, (_, interval)), row in zip(KINDS.items(), scores, strict=True):
        summary[variant] = 100 * float(row.mean())
        summary[interval] = list(percentiles(np.stack([row, ones]), ratio, **draws))
    parts = [_table(summary), note, summary["signature"]]
    if request.others is not None:
        others = _scores(request, request.others)
        summary["compare"] = {}
        for variant, ours, base in zip(KINDS, scores, others, strict=True):
            figures, base_figures = (np.stack([row, ones]) for row in (ours, base))
            difference = compare(
                figures,
                base_figures,
                ratio,
                higher_is_better=True,
                resamples=request.resamples,
                seed=request.seed,
            )
            other = 100 * float(base.mean())
            summary["compare"][variant] = {variant: other, **vars(difference)}
            line = comparison_line(variant, summary[variant], other, difference)
            parts.append(line)
    columns = zip(request.keys, words, *scores.tolist(), strict=True)
    utterances = [
        {"key": key, "ref_words": n, **dict(zip(KINDS, row, strict=True)), "one": 1}
        for key, n, *row in columns
    ]
    terminal = "\n\n".join(part for part in parts if part)
    listing = lowest(request, 100 * scores[0], "ROUGE-1", terminal)
    return Report(summary, utterances, terminal, listing)


def _scores(request: Request, hyps: tuple[str, ...]) -> np.ndarray:
    """Compute F1 of the three variants, (3, N), between 0 and 1."""
    scorer = RougeScorer(list(KINDS), tokenizer=DefaultTokenizer(request.stem))
    rows = []
    for index, hyp in enumerate(hyps):
        best = scorer.score_multi(request.references(index), hyp)
        rows.append([best[variant].fmeasure for variant in KINDS])
    return np.array(rows).T


def _signature(request: Request) -> str:
    stem = "Porter stemming" if request.stem else "no stemming"
    return f"rouge-score {version('rouge-score')}, F1, {stem}, lower case"


def _table(summary: dict[str, Any]) -> str:
    rows = []
    for variant, (name, interval) in KINDS.items():
        low, high = summary[interval]
        rows.append([name, f"{summary[variant]:.2f}", f"{low:.2f} to {high:.2f}"])
    count = f"{summary['utterances']:,} utterances, {summary['ref_words']:,} words"
    return f"{aligned(['', 'F1', '95 % interval'], rows)}\n\n{count}"

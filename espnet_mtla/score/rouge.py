"""ROUGE-1, -2 and -L by rouge-score; we resample, compare and list.

F1 in percent, the mean over utterances (Lin, 2004). Of several references the best one
counts, for each of the three. rouge-score compares lower-cased runs of a-z and 0-9, so
it means nothing for other alphabets.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from espnet_mtla.errors import UserError
from espnet_mtla.score.bootstrap import compare, percentiles, ratio
from espnet_mtla.score.metric import Report, Request, comparison_line
from espnet_mtla.score.table import aligned

KINDS = ("rouge1", "rouge2", "rougeL")
LISTED = 50
"""Utterances in result.txt, those with the lowest ROUGE-1."""


def report(request: Request) -> Report:
    """Mean ROUGE-1, -2 and -L; two systems are compared by ROUGE-1."""
    scores = _scores(request, request.hyps)
    draws = {"resamples": request.resamples, "seed": request.seed}
    words = [len(ref.split()) for ref in request.refs]
    summary: dict[str, Any] = {
        "metric": "rouge",
        "utterances": len(request.keys),
        "ref_words": sum(words),
        "signature": _signature(request),
    }
    ones = np.ones(len(request.keys))
    for kind, row in zip(KINDS, scores, strict=True):
        interval = percentiles(np.stack([row, ones]), ratio, **draws)
        summary[kind] = 100 * float(row.mean())
        summary["ci95" if kind == KINDS[0] else f"{kind}_ci95"] = list(interval)
    parts = [_table(summary), summary["signature"]]
    if request.others is not None:
        others = _scores(request, request.others)
        summary["compare"] = {}
        for kind, ours, base in zip(KINDS, scores, others, strict=True):
            figures = (np.stack([row, ones]) for row in (ours, base))
            found = compare(*figures, ratio, True, **draws)
            other = 100 * float(base.mean())
            summary["compare"][kind] = {kind: other, **vars(found)}
            parts.append(comparison_line(kind, summary[kind], other, found))
    columns = zip(request.keys, words, *scores.tolist(), strict=True)
    utterances = [
        {"key": key, "ref_words": n, **dict(zip(KINDS, row, strict=True)), "one": 1}
        for key, n, *row in columns
    ]
    terminal = "\n\n".join(parts)
    return Report(summary, utterances, terminal, _listing(request, scores, terminal))


def _scores(request: Request, hyps: tuple[str, ...]) -> np.ndarray:
    """(3, N) F1 between 0 and 1."""
    scorer = RougeScorer(list(KINDS), use_stemmer=request.stem)
    rows = []
    for index, hyp in enumerate(hyps):
        refs = request.references(index)
        if not any(scorer._tokenizer.tokenize(ref) for ref in refs):
            raise UserError(
                f"rouge: utterance {request.keys[index]}: the reference has no word of "
                f"a-z or 0-9, which is all that ROUGE sees: {refs[0][:60]!r}"
            )
        found = scorer.score_multi(refs, hyp)
        rows.append([found[kind].fmeasure for kind in KINDS])
    return np.array(rows).T


def _signature(request: Request) -> str:
    stem = "Porter stemming" if request.stem else "no stemming"
    return f"rouge-score {version('rouge-score')}, F1, {stem}, lower case"


def _table(summary: dict[str, Any]) -> str:
    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    rows = []
    for kind, name in names.items():
        low, high = summary["ci95" if kind == KINDS[0] else f"{kind}_ci95"]
        rows.append([name, f"{summary[kind]:.2f}", f"{low:.2f} to {high:.2f}"])
    count = f"{summary['utterances']:,} utterances, {summary['ref_words']:,} words"
    return f"{aligned(['', 'F1', '95 % interval'], rows)}\n\n{count}"


def _listing(request: Request, scores: np.ndarray, head: str) -> str:
    worst = np.argsort(scores[0], kind="stable")[:LISTED]
    blocks = [head, f"{len(worst)} utterances with the lowest ROUGE-1"]
    for i in map(int, worst):
        refs = "\n".join(f"  ref  {ref}" for ref in request.references(i))
        line = f"{request.keys[i]}: ROUGE-1 {100 * scores[0][i]:.1f}"
        blocks.append(f"{line}\n{refs}\n  hyp  {request.hyps[i]}")
    return "\n\n".join(blocks) + "\n"

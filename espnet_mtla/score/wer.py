"""Word and character error rates from jiwer's alignments, with bootstrap intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import jiwer
import numpy as np

from espnet_mtla.score.bootstrap import Difference, interval, paired
from espnet_mtla.score.listing import AlignedUnits, AlignedUtterance, listing
from espnet_mtla.score.metric import (
    Report,
    Request,
    comparison_line,
    empty_references,
)
from espnet_mtla.score.table import aligned


def word_report(request: Request) -> Report:
    """Compute the word error rate; words are separated by white space."""
    return _report(request, "wer", "words")


def character_report(request: Request) -> Report:
    """Compute the character error rate; one space between words is a character."""
    return _report(request, "cer", "characters")


def align(
    keys: Sequence[str], refs: Sequence[str], hyps: Sequence[str], units: str
) -> list[AlignedUtterance]:
    """Align each hypothesis with its reference by minimum edit distance.

    Runs of white space count as one space. With an empty reference, all units of the
    hypothesis are insertions.

    Args:
        keys: utterance keys.
        refs, hyps: reference and hypothesis of each utterance.
        units: ``words`` or ``characters``.
    Returns:
        One alignment per utterance.
    """
    process = jiwer.process_words if units == "words" else jiwer.process_characters
    output = process([_one_spaced(t) for t in refs], [_one_spaced(t) for t in hyps])
    return [
        AlignedUtterance(key, tuple(_steps(ref, hyp, chunks)))
        for key, ref, hyp, chunks in zip(
            keys, output.references, output.hypotheses, output.alignments, strict=True
        )
    ]


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


def _steps(
    ref: list[str], hyp: list[str], chunks: Iterable[jiwer.AlignmentChunk]
) -> Iterable[AlignedUnits]:
    marks = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}
    for chunk in chunks:
        pairs = zip_longest(
            ref[chunk.ref_start_idx : chunk.ref_end_idx],
            hyp[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        for left, right in pairs:
            yield AlignedUnits(marks[chunk.type], left, right)


def _report(request: Request, metric: str, units: str) -> Report:
    request.single_reference(metric)
    empty, note = empty_references(request, "all that is said there is inserted")
    utterances = align(request.keys, request.refs, request.hyps, units)
    summary = {"metric": metric, "empty_refs": empty, **_summary(utterances, request)}
    parts = [_summary_table(summary, units), note]
    if request.others is not None:
        others = align(request.keys, request.refs, request.others, units)
        result = _compare(utterances, others, request)
        other = _summary(others, request)["wer"]
        summary["compare"] = {"wer": other, **vars(result)}
        parts.append(comparison_line(metric.upper(), summary["wer"], other, result))
    parts.append(_confusion_table(utterances, request.confusions))
    terminal = "\n\n".join(part for part in parts if part)
    return Report(
        summary=summary,
        utterances=[_counts(utterance) for utterance in utterances],
        terminal=terminal,
        listing=listing(utterances, units, terminal),
    )


def _counts(utterance: AlignedUtterance) -> dict[str, Any]:
    return {
        "key": utterance.key,
        "ref_words": utterance.units,
        "sub": utterance.count("S"),
        "del": utterance.count("D"),
        "ins": utterance.count("I"),
        "errors": utterance.errors,
    }


def _arrays(utterances: list[AlignedUtterance]) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and reference units of each utterance, (N,) each."""
    return (
        np.array([utterance.errors for utterance in utterances]),
        np.array([utterance.units for utterance in utterances]),
    )


def _summary(utterances: list[AlignedUtterance], request: Request) -> dict[str, Any]:
    errors, words = _arrays(utterances)
    low, high = interval(errors, words, request.resamples, request.seed)
    return {
        "utterances": len(utterances),
        "ref_words": int(words.sum()),
        "sub": sum(utterance.count("S") for utterance in utterances),
        "del": sum(utterance.count("D") for utterance in utterances),
        "ins": sum(utterance.count("I") for utterance in utterances),
        "errors": int(errors.sum()),
        "wer": 100 * int(errors.sum()) / int(words.sum()),
        "ci95": [low, high],
        "sentence_errors": int(np.count_nonzero(errors)),
    }


def _compare(
    utterances: list[AlignedUtterance], others: list[AlignedUtterance], request: Request
) -> Difference:
    errors, words = _arrays(utterances)
    base, _ = _arrays(others)
    return paired(errors, base, words, request.resamples, request.seed)


def _summary_table(summary: dict[str, Any], units: str) -> str:
    low, high = summary["ci95"]
    wrong = 100 * summary["sentence_errors"] / summary["utterances"]
    name = summary["metric"].upper()
    header = ["utterances", units, "sub", "del", "ins", "errors"]
    row = [f"{summary[k]:,}" for k in ("utterances", "ref_words", *header[2:])]
    header += [f"{name} %", "95 % interval", "sentences wrong %"]
    row += [f"{summary['wer']:.2f}", f"{low:.2f} to {high:.2f}", f"{wrong:.1f}"]
    return aligned(header, [row], left=0)


def _confusion_table(utterances: list[AlignedUtterance], most: int) -> str:
    """Format the ``most`` frequent errors of each type in columns; empty if none."""
    counters: dict[str, Counter[str]] = {"S": Counter(), "D": Counter(), "I": Counter()}
    for utterance in utterances:
        for step in utterance.steps:
            if step.kind != "=":
                counters[step.kind][str(step)] += 1
    # Sort ties by text: the order must not depend on the order of the utterances.
    columns = [
        [f"{n:>5} {text}" for text, n in sorted(c.items(), key=lambda i: (-i[1], i[0]))]
        for c in counters.values()
    ]
    rows = list(zip_longest(*(column[:most] for column in columns), fillvalue=""))
    header = ["substituted", "deleted", "inserted"]
    return aligned(header, rows, left=3, gap=3) if rows else ""

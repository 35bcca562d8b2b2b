"""Intent accuracy, and the word error rate of the transcript after the intent.

The first word of a text is the intent, the rest is the transcript. An empty text has
the class :data:`NONE`: an empty hypothesis is correct for an empty reference.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from espnet_mtla.score.bootstrap import compare, percentiles, ratio
from espnet_mtla.score.metric import (
    Report,
    Request,
    comparison_line,
    empty_references,
)
from espnet_mtla.score.table import aligned
from espnet_mtla.score.wer import align

NONE = "(nothing)"


def intent_report(request: Request) -> Report:
    """Compute the percentage of utterances with the correct intent."""
    request.single_reference("intent")
    empty, note = empty_references(request, f"{NONE} is the right intent there")
    references, spoken = _split(request.refs)
    hypotheses, heard = _split(request.hyps)
    correct = _correct(references, hypotheses)
    draws = {"resamples": request.resamples, "seed": request.seed}
    classes = sorted(set(references))
    unknown = Counter(intent for intent in hypotheses if intent not in classes)
    summary: dict[str, Any] = {
        "metric": "intent",
        "utterances": len(request.keys),
        "ref_words": sum(len(ref.split()) for ref in request.refs),
        "empty_refs": empty,
        "intents": len(classes),
        "accuracy": 100 * float(correct[0].mean()),
        "ci95": list(percentiles(correct, ratio, **draws)),
        "macro_f1": _macro_f1(references, hypotheses, classes),
        "unknown_intents": unknown.total(),
        "transcript_wer": _transcript_wer(request, spoken, heard),
    }
    parts = [_table(summary), note]
    if unknown:
        names = ", ".join(f"{name} ({n})" for name, n in unknown.most_common(5))
        parts.append(f"hypotheses with an intent that no reference has: {names}")
    if request.others is not None:
        base = _correct(references, _split(request.others)[0])
        result = compare(correct, base, ratio, True, **draws)
        other = 100 * float(base[0].mean())
        summary["compare"] = {"accuracy": other, **vars(result)}
        line = comparison_line("accuracy", summary["accuracy"], other, result)
        parts.append(line)
    parts.append(_confusions(references, hypotheses, request.confusions))
    utterances = [
        {
            "key": key,
            "ref_words": len(ref.split()),
            "intent": intent,
            "found": other,
            "right": int(intent == other),
            "one": 1,
        }
        for key, ref, intent, other in zip(
            request.keys, request.refs, references, hypotheses, strict=True
        )
    ]
    terminal = "\n\n".join(part for part in parts if part)
    return Report(summary, utterances, terminal, _listing(request, correct, terminal))


def _split(texts: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Split texts into intents and transcripts; an empty text: ``NONE`` and ``""``."""
    parts = [[*text.split(maxsplit=1), "", ""][:2] for text in texts]
    return [intent or NONE for intent, _ in parts], [words for _, words in parts]


def _correct(references: list[str], hypotheses: list[str]) -> np.ndarray:
    """Return (2, N): 1 or 0 for each correct or wrong intent, and a row of ones."""
    hits = [float(a == b) for a, b in zip(references, hypotheses, strict=True)]
    return np.array([hits, [1.0] * len(hits)])


def _macro_f1(
    references: list[str], hypotheses: list[str], classes: list[str]
) -> float:
    """Compute macro F1 in percent: the unweighted mean over the reference intents."""
    there, said = Counter(references), Counter(hypotheses)
    hits = Counter(a for a, b in zip(references, hypotheses, strict=True) if a == b)
    scores = [2 * hits[c] / (there[c] + said[c]) for c in classes]
    return 100 * sum(scores) / len(scores)


def _transcript_wer(
    request: Request, spoken: list[str], heard: list[str]
) -> float | None:
    """Compute the WER in percent; None if no reference has a transcript.

    Hypothesis words for an empty reference transcript count as insertions.
    """
    utterances = align(request.keys, spoken, heard, "words")
    words = sum(utterance.units for utterance in utterances)
    errors = sum(utterance.errors for utterance in utterances)
    return 100 * errors / words if words else None


def _table(summary: dict[str, Any]) -> str:
    low, high = summary["ci95"]
    wer = summary["transcript_wer"]
    header = ["utterances", "intents", "accuracy %", "95 % interval"]
    header += ["macro F1 %", "transcript WER %"]
    row = [f"{summary['utterances']:,}", str(summary["intents"])]
    row += [f"{summary['accuracy']:.2f}", f"{low:.2f} to {high:.2f}"]
    row += [f"{summary['macro_f1']:.2f}", "-" if wer is None else f"{wer:.2f}"]
    return aligned(header, [row], left=0)


def _confusions(references: list[str], hypotheses: list[str], most: int) -> str:
    """Format the most frequent confusions; empty if there are no errors."""
    pairs = Counter(
        (a, b) for a, b in zip(references, hypotheses, strict=True) if a != b
    )
    there = Counter(references)
    # Sort ties by name: the order must not depend on the order of the utterances.
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:most]
    rows = [
        [a, b, str(n), str(there[a]), f"{100 * n / there[a]:.0f}"]
        for (a, b), n in ordered
    ]
    header = ["intent", "taken for", "times", "of", "%"]
    return aligned(header, rows, left=2) if rows else ""


def _listing(request: Request, right: np.ndarray, head: str) -> str:
    """List every utterance with a wrong intent below ``head``."""
    blocks = [head, f"{int((1 - right[0]).sum())} utterances with a wrong intent"]
    for key, ref, hyp, hit in zip(
        request.keys, request.refs, request.hyps, right[0], strict=True
    ):
        if not hit:
            blocks.append(f"{key}\n  ref  {ref}\n  hyp  {hyp}")
    return "\n\n".join(blocks) + "\n"

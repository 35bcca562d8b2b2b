"""What a metric is: a function from paired texts to a report, found by its name.

A new metric is one module with one such function, and one entry in :data:`METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from string import Formatter
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.score.bootstrap import Difference, Rate


@dataclass(frozen=True)
class Metric:
    """How one metric is counted, compared and shown.

    ``report`` is ``module:function``, imported when it is used. ``value`` names the
    score in score.json. ``figures`` are the entries of a line of utterances.jsonl whose
    sums ``rate`` turns into the score; each is a number or a list of numbers.
    ``detail`` is filled in from score.json, under the heading ``beside``.
    """

    report: str
    label: str
    value: str
    figures: tuple[str, ...]
    beside: str
    detail: str
    rate: str = "espnet_mtla.score.bootstrap:ratio"
    higher_is_better: bool = True

    @property
    def shown(self) -> list[str]:
        """What ``detail`` takes from score.json."""
        return [name for _, name, _, _ in Formatter().parse(self.detail) if name]


def _error_rate(name: str, report: str) -> Metric:
    return Metric(
        f"espnet_mtla.score.wer:{report}",
        label=f"{name} %",
        value="wer",
        figures=("errors", "ref_words"),
        beside="sub/del/ins",
        detail="{sub}/{del}/{ins}",
        higher_is_better=False,
    )


METRICS = {
    "wer": _error_rate("WER", "word_report"),
    "cer": _error_rate("CER", "character_report"),
    "bleu": Metric(
        "espnet_mtla.score.bleu:bleu_report",
        label="BLEU",
        value="bleu",
        figures=("bleu_counts",),
        beside="chrF",
        detail="{chrf:.1f}",
        rate="espnet_mtla.score.bleu:bleu_of",
    ),
    "intent": Metric(
        "espnet_mtla.score.intent:intent_report",
        label="intent accuracy %",
        value="accuracy",
        figures=("right", "one"),
        beside="transcript WER %",
        detail="{transcript_wer:.1f}",
    ),
    "rouge": Metric(
        "espnet_mtla.score.rouge:rouge_report",
        label="ROUGE-1",
        value="rouge1",
        figures=("rouge1", "one"),
        beside="R-2, R-L",
        detail="{rouge2:.2f}, {rougeL:.2f}",
    ),
}
"""By the name on the command line."""


@dataclass(frozen=True)
class Request:
    """What is scored, in the order of the reference.

    ``others`` are the hypotheses of a second system to compare with, or ``None``.
    ``more_refs`` are each utterance's references beyond the first. ``lowercase`` and
    ``tokenize`` are BLEU's, ``stem`` is ROUGE's.
    """

    keys: tuple[str, ...]
    refs: tuple[str, ...]
    hyps: tuple[str, ...]
    others: tuple[str, ...] | None = None
    more_refs: tuple[tuple[str, ...], ...] = ()
    resamples: int = 1000
    seed: int = 0
    confusions: int = 10
    lowercase: bool = False
    tokenize: str = "13a"
    stem: bool = True

    def references(self, index: int) -> list[str]:
        """All references of one utterance."""
        return [self.refs[index], *(self.more_refs[index] if self.more_refs else ())]

    def single_reference(self, metric: str) -> None:
        """Raises :class:`UserError` if any utterance has several references."""
        if any(self.more_refs):
            raise UserError(
                f"{metric} takes one reference an utterance; give one --ref"
            )


def empty_references(
    request: Request,
    meaning: str,
    has_word: Callable[[str], object] = str.split,
    word: str = "a word",
) -> tuple[int, str]:
    """Count the references without a word.

    Args:
        request: what is scored.
        meaning: how the metric counts such a reference, for the terminal.
        has_word: true of a text that holds a word as the metric sees it.
        word: what such a word is called in messages.
    Returns:
        The count, over all references of all utterances; a line about them for the
        terminal, empty without any.
    Raises:
        UserError: no reference at all has a word.
    """
    texts = [
        (key, text)
        for index, key in enumerate(request.keys)
        for text in request.references(index)
    ]
    empty = [(key, text) for key, text in texts if not has_word(text)]
    if len(empty) == len(texts):
        key, text = empty[0]
        raise UserError(
            f"none of {len(texts)} references has {word} to score by; the first, "
            f"of utterance {key}, is {text[:60]!r}"
        )
    if not empty:
        return 0, ""
    count = f"{len(empty)} of {len(texts)} references"
    return len(empty), f"{count} without {word} (first: {empty[0][0]}): {meaning}"


@dataclass(frozen=True)
class Report:
    """What a metric gives back; the command prints and writes it.

    ``summary`` becomes score.json, ``utterances`` (one dictionary each) becomes
    utterances.jsonl, ``listing`` result.txt; ``terminal`` is printed.
    """

    summary: dict[str, Any]
    utterances: list[dict[str, Any]]
    terminal: str
    listing: str


def resolve(name: str) -> Callable[[Request], Report]:
    """Import the report of the metric called ``name``."""
    if name not in METRICS:
        raise UserError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return _import(METRICS[name].report)


def rate_of(name: str) -> Rate:
    """Import what turns sums of a metric's figures into its score."""
    return _import(METRICS[name].rate)


def _import(path: str) -> Any:
    module, function = path.split(":")
    return getattr(import_module(module), function)


def comparison_line(name: str, score: float, other: float, found: Difference) -> str:
    """One line that says whether two systems differ, for the terminal."""
    meaning = {
        "same": "no difference that this data can show",
        "better": "better than the other",
        "worse": "worse than the other",
    }[found.verdict]
    return (
        f"{name} {score:.2f} against {other:.2f}: {found.difference:+.2f}"
        f" (95 % interval {found.low:+.2f} to {found.high:+.2f}, p = {found.p:.3f}),"
        f" {meaning}"
    )

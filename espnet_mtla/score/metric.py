"""The interface of metrics: a function from a :class:`Request` to a :class:`Report`.

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
    """Definition of one metric: how it is computed, compared and printed.

    Attributes:
        report: ``module:function`` that scores a request, imported on first use.
        label: column heading of the score.
        value: key of the score in score.json.
        figures: keys in a line of utterances.jsonl; each value is a number or a list
            of numbers. ``rate`` computes the score from their sums.
        beside: column heading of ``detail``.
        detail: format string, filled in from score.json.
        rate: ``module:function`` from summed figures to the score.
        higher_is_better: direction of the score.
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
        """The keys of score.json that ``detail`` uses."""
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
"""Metrics by their name on the command line."""


@dataclass(frozen=True)
class Request:
    """Texts to score, in the order of the reference, and the options of metrics.

    Attributes:
        keys: utterance keys.
        refs: the first reference of each utterance.
        hyps: the hypothesis of each utterance.
        others: hypotheses of a second system to compare with, or ``None``.
        more_refs: further references of each utterance; empty if there are none.
        resamples: number of bootstrap draws.
        seed: random seed of the bootstrap.
        confusions: number of confusions in the report.
        lowercase: ignore case (BLEU, chrF).
        tokenize: name of sacrebleu's tokeniser (BLEU).
        stem: apply the Porter stemmer (ROUGE).
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
        """Return all references of one utterance."""
        return [self.refs[index], *(self.more_refs[index] if self.more_refs else ())]

    def single_reference(self, metric: str) -> None:
        """Raise :class:`UserError` if an utterance has several references."""
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
        request: the texts to score.
        meaning: how the metric counts such a reference, for the terminal.
        has_word: returns a true value if a text has a word in the metric's sense.
        word: name of such a word in messages.
    Returns:
        The count over all references of all utterances, and a line about them for the
        terminal (empty if the count is 0).
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
    """Result of a metric; the score command prints and writes it.

    ``summary`` becomes score.json, ``utterances`` (one dictionary each) becomes
    utterances.jsonl, ``listing`` result.txt; ``terminal`` is printed.

    Tables need these keys (:func:`score` checks them). In ``summary``: ``utterances``
    and ``ref_words``, counts of the set; the metric's ``value`` and the keys of its
    ``detail``; ``ci95``, the two bounds of its interval; and, if the request has a
    second system, ``compare``: that system's score under the key ``value``, with the
    fields of :class:`.Difference`. In each of ``utterances``: ``key``, ``ref_words``
    and the metric's ``figures``.
    """

    summary: dict[str, Any]
    utterances: list[dict[str, Any]]
    terminal: str
    listing: str


def resolve(name: str) -> Callable[[Request], Report]:
    """Import the report function of the metric ``name``."""
    if name not in METRICS:
        raise UserError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    return _import(METRICS[name].report)


def score(name: str, request: Request) -> Report:
    """Compute the metric ``name``; check that its report has what tables need.

    Raises:
        UserError: no such metric, or texts that it cannot score.
        TypeError: the metric's function left something out of its report.
    """
    report, entry = resolve(name)(request), METRICS[name]
    needed = {"utterances", "ref_words", entry.value, "ci95", *entry.shown}
    if request.others is not None:
        needed.add("compare")
    lacks = sorted(needed - report.summary.keys())
    for line in report.utterances:
        lacks += sorted({"key", "ref_words", *entry.figures} - line.keys())
        break
    if lacks:
        raise TypeError(f"metric {name}: its report lacks {', '.join(lacks)}")
    return report


def rate_of(name: str) -> Rate:
    """Import the function from summed figures to the score of the metric ``name``."""
    return _import(METRICS[name].rate)


def _import(path: str) -> Any:
    module, function = path.split(":")
    return getattr(import_module(module), function)


def comparison_line(name: str, score: float, other: float, result: Difference) -> str:
    """Format the comparison of two systems as one line for the terminal."""
    meaning = {
        "same": "no difference that this data can show",
        "better": "better than the other",
        "worse": "worse than the other",
    }[result.verdict]
    return (
        f"{name} {score:.2f} against {other:.2f}: {result.difference:+.2f}"
        f" (95 % interval {result.low:+.2f} to {result.high:+.2f}, p = {result.p:.3f}),"
        f" {meaning}"
    )

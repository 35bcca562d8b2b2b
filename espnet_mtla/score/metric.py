"""What a metric is: a function from paired texts to a report, found by its name.

A new metric is one module with one such function, and one line in :data:`METRICS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from espnet_mtla.data.folder import read_table
from espnet_mtla.errors import UserError

METRICS = {
    "wer": "espnet_mtla.score.wer:word_report",
    "cer": "espnet_mtla.score.wer:character_report",
}
"""Name on the command line -> ``module:function``, imported when it is used."""

SHOWN_KEYS = 3


@dataclass(frozen=True)
class Request:
    """What is scored: three texts an utterance, in the order of the reference.

    ``others`` are the hypotheses of a second system to compare with, or ``None``.
    """

    keys: tuple[str, ...]
    refs: tuple[str, ...]
    hyps: tuple[str, ...]
    others: tuple[str, ...] | None = None
    resamples: int = 1000
    seed: int = 0
    confusions: int = 10


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


Metric = Callable[[Request], Report]


def resolve(name: str) -> Metric:
    """Import the metric called ``name``."""
    if name not in METRICS:
        raise UserError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    module, function = METRICS[name].split(":")
    return getattr(import_module(module), function)


def read_request(
    ref: str | Path, hyp: str | Path, other: str | Path | None = None, **options: int
) -> Request:
    """Read Kaldi ``text`` files and pair them by key.

    ``options`` are the remaining fields of :class:`Request`. A hypothesis may be empty,
    a reference may not: an error rate is a share of the reference.
    """
    refs = _read_text(ref)
    for key, words in refs.items():
        if not words.split():
            raise UserError(
                f"{ref}: utterance {key} has an empty reference, which no rate can be"
                " taken of; remove it from the data folder"
            )
    hyps = _read_matching(hyp, ref, refs)
    others = None if other is None else tuple(_read_matching(other, ref, refs))
    return Request(tuple(refs), tuple(refs.values()), tuple(hyps), others, **options)


def _read_text(path: str | Path) -> dict[str, str]:
    table = read_table(path)
    if not table:
        raise UserError(f"{path}: no utterance in it, nothing to score")
    return table


def _read_matching(
    path: str | Path, ref: str | Path, refs: dict[str, str]
) -> list[str]:
    """The texts of ``path`` in the order of ``refs``; both must hold the same keys."""
    table = _read_text(path)
    lacks = [key for key in refs if key not in table]
    extra = [key for key in table if key not in refs]
    if lacks or extra:
        parts = []
        if lacks:
            parts.append(f"{path} lacks {len(lacks)} of {len(refs)} ({_first(lacks)})")
        if extra:
            parts.append(f"{ref} lacks {len(extra)} of {len(table)} ({_first(extra)})")
        raise UserError(
            f"the utterances differ: {'; '.join(parts)}; score the data set that was"
            " decoded, whole"
        )
    return [table[key] for key in refs]


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")

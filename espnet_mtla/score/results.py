"""Collect decoded and scored experiments into comparisons of attention types.

Files of an experiment are ``EXP/decode_NAME/SET/efficiency.json`` (speed, memory) and
``EXP/decode_NAME/SET/score_METRIC/{score.json,utterances.jsonl}`` (quality). A baseline
has no model, only ``BASELINE/SET/score_METRIC/score.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from espnet_mtla.errors import UserError
from espnet_mtla.score.bootstrap import Difference, compare
from espnet_mtla.score.metric import METRICS, rate_of
from espnet_mtla.text_files import read_json

ATTENTIONS = ("mha", "mqa", "gqa", "mla", "mtla")
"""Attention types, at which labels of rows begin. Written here too, since this module
needs no torch; a test compares them with the registry."""
BASE = "mha"
PREFIX, BASELINE = "decode_", "baseline_"

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """Values of one efficiency.json; times in seconds, memory in bytes."""

    audio_seconds: float
    wall_seconds: float
    encoder_seconds: float
    search_seconds: float
    rtf: float
    tokens_per_second: float
    cache_bytes_per_audio_second: float
    peak_memory_bytes: int
    parameters: int
    beam_size: int
    ctc_weight: float
    device: str


@dataclass(frozen=True)
class Quality:
    """Values of one score.json; ``counts`` is its content, ``value`` the score."""

    utterances: int
    ref_words: int
    value: float
    ci95: tuple[float, float]
    counts: dict[str, Any]


@dataclass(frozen=True)
class ResultRow:
    """One attention type on one test set, decoded in one way, or a baseline.

    ``missing`` names a missing file and the stage that writes it; the values of that
    file are ``None``. ``speedup``, ``cache_factor`` (times smaller) and ``difference``
    are relative to the table's base; ``None`` if the base has no such value.
    """

    attention: str
    experiment: str
    speed: Speed | None = None
    quality: Quality | None = None
    missing: str | None = None
    speedup: float | None = None
    cache_factor: float | None = None
    difference: Difference | None = None
    conditions: dict[str, Any] | None = None


@dataclass(frozen=True)
class Table:
    """The rows of one test set and decode setting; ``base`` is one row's attention."""

    decode: str
    test_set: str
    metric: str
    base: str
    rows: tuple[ResultRow, ...]


def collect(
    experiments: Sequence[Path],
    decodes: Sequence[str] = (),
    sets: Sequence[str] = (),
    metric: str = "wer",
    partial: bool = False,
    baselines: Sequence[Path] = (),
) -> list[Table]:
    """Read all results and compare them with the base: MHA, or the first experiment.

    Args:
        experiments: folders ``exp/asr_TAG_ATTENTION``, in the order of the rows.
        decodes: names of decode settings (``decode_NAME``); empty: all that exist.
        sets: names of test sets; empty: all that exist.
        metric: name of the metric, that is of the folder ``score_METRIC``.
        partial: leave gaps for missing files instead of raising.
        baselines: folders of baselines, the first rows of each table.

    Returns:
        One table per test set and decode setting.

    Raises:
        UserError: a file is missing or lacks a key, or rows were scored on different
            references.
    """
    labels = _labels(experiments)
    base = labels.index(BASE) if BASE in labels else 0
    decodes = decodes or _found_decodes(experiments)
    tables = []
    for test_set in sets or _found_sets(experiments, decodes):
        for decode in decodes:
            folders = [path / f"{PREFIX}{decode}" / test_set for path in experiments]
            rows = [
                _read_row(label, experiment, folder, metric, partial)
                for label, experiment, folder in zip(
                    labels, experiments, folders, strict=True
                )
            ]
            rows = [
                _against(row, rows[base], folder, folders[base], metric)
                for row, folder in zip(rows, folders, strict=True)
            ]
            rows = [_read_baseline(path, test_set, metric) for path in baselines] + rows
            tables.append(Table(decode, test_set, metric, labels[base], tuple(rows)))
    return tables


def _labels(experiments: Sequence[Path]) -> list[str]:
    """Return row labels: ``exp/asr_TAG_mtla_s2`` -> ``mtla_s2``.

    Whole folder names are used if the short labels are not unique.
    """
    names = [path.resolve().name for path in experiments]
    labels = [_label(name) for name in names]
    if len(set(labels)) == len(labels):
        return labels
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--exp: {twice} is given twice; give each experiment once")
    return names


def _label(name: str) -> str:
    parts = name.split("_")
    starts = [i for i, part in enumerate(parts) if part in ATTENTIONS]
    return "_".join(parts[starts[-1] :]) if starts else name


def _found_decodes(experiments: Sequence[Path]) -> list[str]:
    names = {
        path.name.removeprefix(PREFIX)
        for experiment in experiments
        for path in experiment.glob(f"{PREFIX}*")
        if path.is_dir()
    }
    if not names:
        raise UserError(
            f"{experiments[0]}: no {PREFIX}NAME folder in it"
            f" or in any other --exp; {_made_by('decode')}"
        )
    return sorted(names)


def _found_sets(experiments: Sequence[Path], decodes: Iterable[str]) -> list[str]:
    """Return the test sets with output of decoding or scoring, sorted by name."""
    folders = [path / f"{PREFIX}{name}" for path in experiments for name in decodes]
    names = {
        path.parent.name
        for folder in folders
        for mark in ("efficiency.json", "1best_recog", "score_*")
        for path in folder.glob(f"*/{mark}")
    }
    if not names:
        raise UserError(f"{folders[0]}: no decoded test set; {_made_by('decode')}")
    return sorted(names)


def _made_by(stage: str) -> str:
    return f"stage {stage} makes it"


def _read_row(
    label: str, experiment: Path, folder: Path, metric: str, partial: bool
) -> ResultRow:
    row = ResultRow(label, experiment.name)
    missing = _missing(experiment, folder, metric)
    if missing and not partial:
        raise UserError(f"{missing}; or --partial to show what is there")
    efficiency = folder / "efficiency.json"
    if efficiency.exists():
        raw = read_json(efficiency, "delete it, run again")
        speed = _from_json(Speed, raw, efficiency, "decode")
        row = replace(row, speed=speed, conditions=_conditions(raw))
    score = folder / f"score_{metric}" / "score.json"
    if score.exists():
        row = replace(row, quality=_read_quality(score, metric))
    return replace(row, missing=missing)


def _read_baseline(folder: Path, test_set: str, metric: str) -> ResultRow:
    score = folder / test_set / f"score_{metric}" / "score.json"
    if not score.exists():
        raise UserError(f"{score}: missing; {_made_by('score')}")
    label = folder.name.removeprefix(BASELINE)
    return ResultRow(label, folder.name, quality=_read_quality(score, metric))


def _read_quality(path: Path, metric: str) -> Quality:
    raw = read_json(path, "delete it, run again")
    entry = METRICS[metric]
    lacks = [name for name in entry.shown if name not in raw]
    if lacks:
        raise UserError(
            f"{path}: lacks {', '.join(lacks)}; delete it and run stage score again"
        )
    named = {**raw, "value": raw.get(entry.value), "counts": raw}
    return _from_json(Quality, named, path, "score")


def _missing(experiment: Path, folder: Path, metric: str) -> str | None:
    """Describe the first missing file, in the order of the stages; None if complete."""
    if not experiment.is_dir():
        return f"{experiment}: no such experiment; {_made_by('train')}"
    if not (folder / "efficiency.json").exists():
        return f"{folder / 'efficiency.json'}: missing; {_made_by('decode')}"
    for name in ("score.json", "utterances.jsonl"):
        path = folder / f"score_{metric}" / name
        if not path.exists():
            return f"{path}: missing; {_made_by('score')}"
    return None


def _conditions(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions of a measurement, which rows should have in common."""
    names = (
        "input",
        "device",
        "cores",
        "dtype",
        "beam_size",
        "ctc_weight",
        "share_prompt",
    )
    return {name: raw[name] for name in names if name in raw}


def _from_json(cls: type[T], raw: dict[str, Any], path: Path, stage: str) -> T:
    """Build the dataclass ``cls`` from JSON; other keys than its fields are ignored.

    Raises :class:`UserError`, naming the stage that wrote ``path``, if a field is null.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    lacks = [name for name in names if raw.get(name) is None]
    if lacks:
        raise UserError(
            f"{path}: lacks {', '.join(lacks)}; delete it and run stage {stage} again"
        )
    return cls(**{name: raw[name] for name in names})


def _against(
    row: ResultRow, base: ResultRow, folder: Path, base_folder: Path, metric: str
) -> ResultRow:
    """Return the row with its values relative to the base row."""
    if row.speed and base.speed:
        row = replace(
            row,
            speedup=_ratio(base.speed.wall_seconds, row.speed.wall_seconds),
            cache_factor=_ratio(
                base.speed.cache_bytes_per_audio_second,
                row.speed.cache_bytes_per_audio_second,
            ),
        )
    if row.missing or base.missing or folder == base_folder:
        return row
    ours, theirs = (
        path / f"score_{metric}" / "utterances.jsonl" for path in (folder, base_folder)
    )
    figures, base_figures = _paired_figures(ours, theirs, METRICS[metric].figures)
    higher = METRICS[metric].higher_is_better
    try:
        difference = compare(figures, base_figures, rate_of(metric), higher)
    except UserError as error:
        raise UserError(f"{ours}: {error}") from None
    return replace(row, difference=difference)


def _ratio(base: float, value: float) -> float | None:
    return base / value if value else None


def _paired_figures(
    ours: Path, theirs: Path, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Read the figures of both files, (C, N) each, in the same order of utterances."""
    left, right = _read_figures(ours, names), _read_figures(theirs, names)
    differing = sorted(
        key
        for key in left.keys() | right.keys()
        if _words(left, key) != _words(right, key)
    )
    if differing:
        raise UserError(
            f"{ours} and {theirs} were not scored on the same references (first:"
            f" {differing[0]}); run stage score again for both"
        )
    columns = [np.array([table[key][1] for key in left]).T for table in (left, right)]
    return columns[0], columns[1]


def _words(figures: dict[str, tuple[int, list[float]]], key: str) -> int | None:
    return figures[key][0] if key in figures else None


def _read_figures(
    path: Path, names: tuple[str, ...]
) -> dict[str, tuple[int, list[float]]]:
    """Read utterances.jsonl: key -> (number of reference words, figures)."""
    figures: dict[str, tuple[int, list[float]]] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for item in map(json.loads, lines):
                row = np.concatenate([np.atleast_1d(item[name]) for name in names])
                figures[item["key"]] = (item["ref_words"], row.tolist())
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: line {len(figures) + 1} is not as the score command writes it;"
            f" run stage score again"
        ) from None
    return figures

"""Format result tables: for the terminal, as Markdown (RESULTS.md) and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError
from espnet_mtla.score.metric import METRICS, Metric
from espnet_mtla.score.provenance import Provenance
from espnet_mtla.score.results import BASE, Quality, ResultRow, Table
from espnet_mtla.score.table import aligned, markdown
from espnet_mtla.text_files import read_text

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
GAP = "-"
UNITS = {"cer": "characters"}


def quantity(value: float, unit: str) -> str:
    """Format a value with three digits and a decimal prefix.

    >>> quantity(460800, "B")
    '461 kB'
    """
    prefixes = ["", "k", "M", "G", "T"]
    # Values of 999.5 and above would be rounded to 1000 of the smaller prefix.
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    digits = 0 if value >= 99.95 or value == int(value) else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[0]}{unit}".rstrip()


def header(table: Table) -> list[str]:
    """Return the column headings of a table."""
    base = f"vs {table.base}" if table.base == BASE else "vs first"
    metric = METRICS[table.metric]
    text = reads_text(table)
    return [
        "attention",
        "params",
        f"{metric.label} [95 %]",
        metric.beside,
        base,
        "time s",
        "speed-up",
        "cache/token" if text else "cache/s",
        "smaller",
        "peak",
        "ms/token" if text else "RTF",
    ]


def reads_text(table: Table) -> bool:
    """Return True if the input was text: lengths are then tokens, not seconds."""
    return any(_of_text(row) for row in table.rows)


def _of_text(row: ResultRow) -> bool:
    return (row.conditions or {}).get("input") == "text"


def cells(row: ResultRow, metric: str) -> list[str]:
    """Format one row of a table; missing values are printed as ``GAP``."""
    return [row.attention, *_cells(row, metric)]


def _cells(row: ResultRow, metric: str) -> list[str]:
    speed, quality, difference = row.speed, row.quality, row.difference
    counts = [GAP, GAP]
    if quality:
        low, high = quality.ci95
        counts = [
            f"{quality.value:.2f} [{low:.2f}, {high:.2f}]",
            _detail(METRICS[metric], quality.counts),
        ]
    compared = (
        f"{difference.difference:+.2f} {difference.verdict}" if difference else GAP
    )
    if speed is None:
        return [GAP, *counts, compared, *[GAP] * 6]
    return [
        quantity(speed.parameters, ""),
        *counts,
        compared,
        f"{speed.wall_seconds:.1f}",
        f"{row.speedup:.2f}x" if row.speedup else GAP,
        quantity(speed.cache_bytes_per_audio_second, "B"),
        f"{row.cache_factor:.2f}x" if row.cache_factor else GAP,
        quantity(speed.peak_memory_bytes, "B"),
        f"{1000 * speed.rtf:.2f}" if _of_text(row) else f"{speed.rtf:.3f}",
    ]


def _detail(metric: Metric, counts: dict[str, Any]) -> str:
    """Format the metric's detail; ``GAP`` if one of its values is None."""
    if any(counts[name] is None for name in metric.shown):
        return GAP
    return metric.detail.format_map(counts)


def title(table: Table) -> str:
    """Return the heading of a table."""
    return f"{table.test_set}, decoded with {table.decode}"


def conditions(table: Table) -> list[str]:
    """Return the conditions common to all rows, then a warning for each difference."""
    known = [row for row in table.rows if row.conditions]
    names = {name: None for row in known for name in row.conditions or {}}
    common, warnings = [], []
    for name in names:
        values = {row.attention: (row.conditions or {}).get(name) for row in known}
        spoken = name.replace("_", " ")
        if len(set(map(str, values.values()))) == 1:
            common.append(f"{spoken} {next(iter(values.values()))}")
        else:
            each = ", ".join(f"{label}: {value}" for label, value in values.items())
            warnings.append(f"Not comparable as they stand, {spoken} differs: {each}.")
    some = next((row for row in table.rows if row.quality and row.speed), None)
    if some and some.quality and some.speed:
        unit = UNITS.get(table.metric, "words")
        size = [
            _size(some.quality),
            f"{some.quality.ref_words:,} {unit} of reference",
            f"{some.speed.audio_seconds:,.0f} "
            + ("tokens of source" if reads_text(table) else "s of audio"),
        ]
        empty = some.quality.counts.get("empty_refs")
        if empty:
            size.append(f"references without a word: {empty:,}")
        common.insert(0, ", ".join(size))
    return ["; ".join(common) + "."] * bool(common) + warnings


def _size(quality: Quality) -> str:
    """Return the number of utterances, and of how many if some were left out."""
    whole = quality.counts.get("whole_set", quality.utterances)
    of = f" of {whole:,}" if whole > quality.utterances else ""
    return f"{quality.utterances:,}{of} utterances"


def notes(table: Table) -> list[str]:
    """Return the lines below a table: conditions, a base other than MHA, gaps."""
    lines = conditions(table)
    if table.base != BASE:
        lines.append(
            f"There is no {BASE} among the experiments: compared with {table.base}."
        )
    lines += [f"{row.attention}: {row.missing}." for row in table.rows if row.missing]
    return lines


def terminal(tables: Sequence[Table]) -> str:
    """Format all tables for a terminal of 120 columns."""
    blocks = []
    for table in tables:
        grid = aligned(header(table), [cells(row, table.metric) for row in table.rows])
        blocks.append("\n".join([title(table), "", grid, "", *notes(table)]))
    return "\n\n".join(blocks) + "\n"


LEGEND = """\
Intervals are 95 % bootstrap intervals over utterances. The column after the counts is
the difference in points and its verdict: `same` if the interval of the paired bootstrap
contains 0. `time s` is the time of the whole decoding, encoder included. `cache/s` is
the decoder's key-value cache per second of audio (of text: per token of the source),
and `smaller` the factor by which it is reduced."""


def document(tables: Sequence[Table], provenance: Provenance, picture: str) -> str:
    """Return a page of Markdown.

    Args:
        tables: the tables, in order.
        provenance: date, versions and commit of the results.
        picture: link to the plot.
    """
    head = f"# Results\n\n![Quality against cache size, and decode time]({picture})"
    return f"{head}\n\n{section(tables, provenance, 2)}"


def section(tables: Sequence[Table], provenance: Provenance, level: int) -> str:
    """Return Markdown without the plot.

    Args:
        tables: the tables, in order.
        provenance: date, versions and commit of the results.
        level: heading level of each table's title.
    """
    versions = ", ".join(
        f"{name} {number}" for name, number in provenance.versions.items()
    )
    commit = f", commit {provenance.commit}" if provenance.commit else ""
    parts = [f"Made on {provenance.date} with {versions}{commit}.", LEGEND]
    for table in tables:
        parts.append(f"{'#' * level} {title(table)}")
        parts.append(
            markdown(header(table), [cells(row, table.metric) for row in table.rows])
        )
        parts += notes(table)
    return "\n\n".join(parts) + "\n"


def as_json(tables: Sequence[Table], provenance: Provenance) -> dict[str, Any]:
    """Return all values of the tables, unrounded, as a JSON object."""
    content = {**asdict(provenance), "tables": [asdict(t) for t in tables]}
    for table, plain in zip(tables, content["tables"], strict=True):
        for row, plain_row in zip(table.rows, plain["rows"], strict=True):
            if row.difference:
                plain_row["difference"]["verdict"] = row.difference.verdict
    return content


def readme_text(path: Path, block: str) -> str:
    """Return the content of ``path`` with ``block`` between the two markers.

    Raises:
        UserError: a marker is missing or repeated, or they are in the wrong order.
    """
    text = read_text(path)
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise UserError(
            f"{path}: needs the line {BEGIN} once and below it {END} once;"
            " the results go between them"
        )
    return f"{text[: begin + len(BEGIN)]}\n{block}{text[end:]}"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as stream:
        stream.write(text)

"""Speed perturbation of tables: one copy of each utterance per factor.

Only tables are written: ``format_audio`` reads ``utt2speed`` and resamples the audio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.folder import LENGTH_TABLES, DataFolder, refuse_replacing
from espnet_mtla.errors import UserError


def parse_factor(text: str) -> str:
    """Return a speed as written in keys; raise :class:`UserError` for no speed.

    >>> parse_factor("1")
    '1.0'
    """
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"speed factor {text!r} is not a number") from None
    if not (math.isfinite(value) and 0.1 <= value <= 10):
        raise UserError(f"speed factor {text} is not between 0.1 and 10")
    return str(value)


def prefix(factor: str) -> str:
    """Return the prefix of keys and speakers; none for unchanged speed.

    >>> prefix("0.9"), prefix("1.0")
    ('sp0.9-', '')
    """
    return "" if Fraction(factor) == 1 else f"sp{factor}-"


def perturb_speed(
    source: str | Path, target: str | Path, factors: Sequence[str]
) -> DataFolder:
    """Replace ``target`` by one copy of ``source`` per factor; return the result."""
    factors = [parse_factor(factor) for factor in factors]
    if len(set(factors)) < len(factors):
        raise UserError(f"a speed factor occurs twice: {' '.join(factors)}")
    refuse_replacing(source, target)
    folder = DataFolder.read(source)
    if "utt2speed" in folder.tables:
        raise UserError(
            f"{source}/utt2speed: the speed of this folder is changed already"
        )
    copies = {prefix(factor): factor for factor in factors}
    _refuse_clashes(folder, list(copies))
    changed = _multiply_folder(folder, copies, Path(target))
    with atomic_folder(target) as aside:
        changed.write(aside)
    return changed


def _multiply_folder(
    folder: DataFolder, copies: dict[str, str], target: Path
) -> DataFolder:
    """Copy the utterances of a folder; ``copies`` maps prefixes to factors."""
    prefixes, segments = list(copies), folder.segments
    tables = {
        name: _multiply(table, prefixes)
        for name, table in folder.tables.items()
        if name not in LENGTH_TABLES
    }
    tables["utt2spk"] = {
        before + utterance: before + speaker
        for before in prefixes
        for utterance, speaker in folder.tables["utt2spk"].items()
    }
    tables["utt2speed"] = {
        before + utterance: factor
        for before, factor in copies.items()
        for utterance in folder.utterances
    }
    return DataFolder(
        path=target,
        wav=_multiply(folder.wav, prefixes) if segments is None else folder.wav,
        segments=None if segments is None else _multiply(segments, prefixes),
        tables=tables,
        speaker_tables={
            name: _multiply(table, prefixes)
            for name, table in folder.speaker_tables.items()
        },
        recording_tables=folder.recording_tables,
    )


def _multiply(table: dict[str, str], prefixes: list[str]) -> dict[str, str]:
    """Repeat the rows of a table with each prefix."""
    return {before + key: value for before in prefixes for key, value in table.items()}


def _refuse_clashes(folder: DataFolder, prefixes: list[str]) -> None:
    """Raise UserError if a prefixed key equals an existing one."""
    names = set(folder.utterances)
    for before in filter(None, prefixes):
        for name in sorted(names):
            if before + name in names:
                raise UserError(
                    f"{folder.path}: {before + name!r} and {name!r} would become the "
                    "same utterance; rename one"
                )

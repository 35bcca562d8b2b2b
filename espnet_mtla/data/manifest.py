"""Data folders as one TSV file, in the format of fairseq's speech recipes.

A header line, then a line per utterance: ``id``, ``audio``, ``n_frames``, ``tgt_text``,
``speaker`` and optionally ``src_text``. ``audio`` is the value in ``wav.scp`` or
``feats.scp``: a file, or a place such as ``fbank80.zip:120:5248``. Paths below the
TSV's folder are relative to it. ``n_frames`` is the number of audio samples or of
feature frames. There is no quoting: a value with a tab is refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.data.features import check_places, holds_features, read_features
from espnet_mtla.data.folder import FEATURES, SOUNDS, DataFolder, refuse_replacing
from espnet_mtla.errors import UserError
from espnet_mtla.text_files import read_text

COLUMNS = ("id", "audio", "n_frames", "tgt_text", "speaker")
SOURCE_TEXT = "src_text"
_COUNTS = {SOUNDS: "utt2num_samples", FEATURES: "utt2num_frames"}


def write_manifest(
    folder: DataFolder, path: str | Path, target: str = "text", source: str = ""
) -> int:
    """Write a data folder as TSV; return the number of utterances.

    Args:
        folder: without segments.
        path: of the TSV.
        target, source: tables for ``tgt_text`` and ``src_text``; the latter may be "".
    Raises:
        UserError: a table is missing, the folder has segments, or a value has a tab.
    """
    path = Path(path)
    if folder.segments is not None:
        raise UserError(
            f"{folder.path}: has segments; run espnet-mtla format_audio on it first"
        )
    for name in filter(None, (target, source)):
        if name not in folder.tables:
            raise UserError(f"{folder.path}/{name}: no such file")
    header = [*COLUMNS, SOURCE_TEXT] if source else list(COLUMNS)
    lines = [header]
    for key in folder.utterances:
        values = [
            key,
            _relative_to(path.parent, folder.wav[key]),
            _count(folder, key),
            folder.tables[target][key],
            folder.tables["utt2spk"][key],
        ]
        lines.append([*values, folder.tables[source][key]] if source else values)
        for name, value in zip(header, lines[-1], strict=True):
            if "\t" in value:
                raise UserError(f"{folder.path}: {key}: a tab in {name}: {value!r}")
    with atomic_file(path) as stream:
        stream.writelines("\t".join(values) + "\n" for values in lines)
    return len(lines) - 1


def _relative_to(folder: Path, source: str) -> str:
    """Make a place relative to ``folder`` if it is below it."""
    inside = f"{folder}/"
    return source.removeprefix(inside) if folder != Path() else source


def _count(folder: DataFolder, key: str) -> str:
    """Return an utterance's ``n_frames``, from a table or from the data."""
    table = folder.tables.get(_COUNTS[folder.source])
    if table:
        return table[key]
    try:
        if folder.source == FEATURES:
            return str(len(read_features(folder.wav[key])))
        from espnet_mtla.data.audio import open_audio

        with open_audio(folder.wav[key]) as sound:
            return str(sound.frames)
    except UserError as error:
        raise UserError(f"{folder.path}: {key}: {error}") from None


def read_manifest(
    path: str | Path, target: str = "text", source: str = "text.src"
) -> DataFolder:
    """Read a TSV as a data folder.

    Args:
        path: of the TSV.
        target, source: names of the tables for ``tgt_text`` and ``src_text``.
    Raises:
        UserError: a column is missing, a line has another number of values, an id is
            duplicate, a count is no number, or a place of features is invalid.
    """
    path = Path(path)
    rows = _read_rows(path)
    places = {key: _resolve(path.parent, row["audio"]) for key, row in rows.items()}
    features = {key: holds_features(place) for key, place in places.items()}
    if len(set(features.values())) > 1:
        key = min(k for k in features if features[k] != features[min(features)])
        raise UserError(f"{path}: {key}: sound and features in one file; split it")
    table = FEATURES if next(iter(features.values())) else SOUNDS
    if table == FEATURES:
        check_places(path, places)
    for key, row in rows.items():
        if not re.fullmatch(r"[0-9]{1,18}", row["n_frames"]):
            raise UserError(f"{path}: {key}: n_frames {row['n_frames']!r} is no number")
    tables = {
        target: {key: row["tgt_text"] for key, row in rows.items()},
        "utt2spk": {key: row.get("speaker") or key for key, row in rows.items()},
        _COUNTS[table]: {key: row["n_frames"] for key, row in rows.items()},
    }
    if all(SOURCE_TEXT in row for row in rows.values()):
        tables[source] = {key: row[SOURCE_TEXT] for key, row in rows.items()}
    return DataFolder(path=path, wav=places, tables=tables, source=table)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Read the lines of a TSV, as values by column, by id."""
    lines = read_text(path).split("\n")
    header = lines[0].rstrip("\r").split("\t")
    missing = [name for name in COLUMNS[:-1] if name not in header]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]!r}; the first line names the columns: "
            + ", ".join(COLUMNS)
        )
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines[1:], 2):
        values = line.rstrip("\r").split("\t")
        if values == [""] and number == len(lines):
            break
        if len(values) != len(header):
            raise UserError(
                f"{path}:{number}: {len(values)} values, the header has {len(header)}"
            )
        row = dict(zip(header, values, strict=True))
        _check_names(f"{path}:{number}", row)
        if row["id"] in rows:
            raise UserError(f"{path}:{number}: id {row['id']!r} occurs twice")
        rows[row["id"]] = row
    if not rows:
        raise UserError(f"{path}: no utterances")
    return rows


def _check_names(place: str, row: dict[str, str]) -> None:
    """Check that id and speaker are one word; only the speaker may be missing."""
    for name in ("id", "audio"):
        if not row[name].strip():
            raise UserError(f"{place}: no {name}")
    for name in ("id", "speaker"):
        if len(row.get(name, "").split()) > 1:
            raise UserError(f"{place}: white space in {name} {row[name]!r}")


def _resolve(folder: Path, source: str) -> str:
    """Inverse of `_relative_to`: prefer a path below ``folder`` if it exists."""
    if source.endswith("|") or source.startswith("/"):
        return source
    beside = f"{folder}/{source}" if folder != Path() else source
    return beside if Path(beside.split(":")[0]).exists() else source


def manifest_to_folder(
    path: str | Path, target: str | Path, text: str = "text", source: str = "text.src"
) -> int:
    """Write the data folder ``target`` from a TSV; return the number of utterances.

    Args:
        path: of the TSV.
        target: output folder, replaced as a whole.
        text, source: names of the tables for ``tgt_text`` and ``src_text``.
    """
    refuse_replacing(Path(path).parent, target)
    folder = read_manifest(path, text, source)
    with atomic_folder(target) as aside:
        folder.write(aside)
    return len(folder.wav)

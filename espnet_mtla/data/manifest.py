"""Data folders as one TSV file, in the form that fairseq's speech recipes use.

A header line, then a line an utterance: ``id``, ``audio``, ``n_frames``, ``tgt_text``,
``speaker`` and, where there is one, ``src_text``. ``audio`` is what stands in
``wav.scp`` or ``feats.scp``: a file, or a place such as ``fbank80.zip:120:5248``; what
lies below the TSV's own folder is written relative to it. ``n_frames`` counts samples
of sound, frames of features. Nothing is quoted, so no value holds a tab.
"""

from __future__ import annotations

from pathlib import Path

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.data.features import check_places, holds_features, read_features
from espnet_mtla.data.folder import (
    FEATURES,
    SOUNDS,
    DataFolder,
    refuse_replacing,
)
from espnet_mtla.errors import UserError

COLUMNS = ("id", "audio", "n_frames", "tgt_text", "speaker")
SOURCE_TEXT = "src_text"
_COUNTS = {SOUNDS: "utt2num_samples", FEATURES: "utt2num_frames"}


def write_manifest(
    folder: DataFolder, path: str | Path, target: str = "text", source: str = ""
) -> int:
    """Write a data folder as TSV; returns the number of utterances.

    Args:
        target, source: tables for ``tgt_text`` and ``src_text``; the latter may be "".
    Raises:
        UserError: a table that is not there, segments, or a tab in a value.
    """
    path = Path(path)
    if folder.segments is not None:
        raise UserError(f"{folder.path}: has segments; run format_audio on it first")
    for name in filter(None, (target, source)):
        if name not in folder.tables:
            raise UserError(f"{folder.path}/{name}: no such file")
    header = [*COLUMNS, SOURCE_TEXT] if source else list(COLUMNS)
    lines = [header]
    for key in folder.utterances:
        values = [
            key,
            _seen_from(path.parent, folder.wav[key]),
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


def _seen_from(folder: Path, source: str) -> str:
    inside = f"{folder}/"
    return source.removeprefix(inside) if folder != Path() else source


def _count(folder: DataFolder, key: str) -> str:
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
    """A TSV as a data folder; ``tgt_text`` and ``src_text`` become these tables.

    Raises:
        UserError: a column that is missing, a line with another number of values, an
            id that stands twice, a count that is no number, features out of place.
    """
    path = Path(path)
    rows = _read_rows(path)
    places = {key: _found_from(path.parent, row["audio"]) for key, row in rows.items()}
    features = {key: holds_features(place) for key, place in places.items()}
    if len(set(features.values())) > 1:
        key = min(k for k in features if features[k] != features[min(features)])
        raise UserError(f"{path}: {key}: sound and features in one file; split it")
    kind = FEATURES if next(iter(features.values())) else SOUNDS
    if kind == FEATURES:
        check_places(path, places)
    for key, row in rows.items():
        if not row["n_frames"].isdigit():
            raise UserError(f"{path}: {key}: n_frames {row['n_frames']!r} is no number")
    tables = {
        target: {key: row["tgt_text"] for key, row in rows.items()},
        "utt2spk": {key: row.get("speaker") or key for key, row in rows.items()},
        _COUNTS[kind]: {key: row["n_frames"] for key, row in rows.items()},
    }
    if all(SOURCE_TEXT in row for row in rows.values()):
        tables[source] = {key: row[SOURCE_TEXT] for key, row in rows.items()}
    return DataFolder(path=path, wav=places, tables=tables, source=kind)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None
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
            raise UserError(f"{path}:{number}: id {row['id']!r} stands twice")
        rows[row["id"]] = row
    if not rows:
        raise UserError(f"{path}: no utterances")
    return rows


def _check_names(place: str, row: dict[str, str]) -> None:
    """Keys of tables are one word; the speaker alone may be missing."""
    for name in ("id", "audio"):
        if not row[name].strip():
            raise UserError(f"{place}: no {name}")
    for name in ("id", "speaker"):
        if len(row.get(name, "").split()) > 1:
            raise UserError(f"{place}: white space in {name} {row[name]!r}")


def _found_from(folder: Path, source: str) -> str:
    """The same place seen from here: a path below the TSV's folder comes first."""
    if source.endswith("|") or source.startswith("/"):
        return source
    beside = f"{folder}/{source}" if folder != Path() else source
    return beside if Path(beside.split(":")[0]).exists() else source


def manifest_to_folder(
    path: str | Path, target: str | Path, text: str = "text", source: str = "text.src"
) -> int:
    """Write the data folder ``target`` from a TSV; returns the utterances' number."""
    refuse_replacing(Path(path).parent, target)
    folder = read_manifest(path, text, source)
    with atomic_folder(target) as aside:
        folder.write(aside)
    return len(folder.wav)

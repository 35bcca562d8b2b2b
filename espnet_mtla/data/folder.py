"""Data folders in Kaldi's layout: tables of lines ``key value``.

A folder holds ``wav.scp`` (one line per recording), optionally ``segments`` (the times
of utterances in recordings), ``utt2spk`` and ``spk2utt``, and any number of tables with
one line per utterance: ``text``, other texts such as ``text.tc.de``, and ``utt2*``.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError
from espnet_mtla.text_files import read_text

# Endings of backup copies: such files are not tables.
_LEFTOVERS = ("~", ".bak", ".orig", ".old", ".tmp", ".swp", ".gz")
# Folder in which validate_data --fix backs up what it changes.
BACKUP = ".backup"
# Table of the utterances that a step left out, with reasons.
DROPPED = "dropped"
# Lengths of the audio: invalid when the audio changes.
LENGTH_TABLES = ("utt2num_samples", "utt2dur", "utt2num_frames")
# Tables that locate an utterance's audio and features.
SOUNDS, FEATURES = "wav.scp", "feats.scp"


def is_utterance_table(name: str) -> bool:
    """Return True for ``text``, ``text.*`` and ``utt2*``: a line per utterance."""
    matches = name == "text" or name.startswith(("text.", "utt2"))
    return matches and not name.endswith(_LEFTOVERS)


def is_text(name: str) -> bool:
    """Return True for ``text`` and ``text.*``."""
    return is_utterance_table(name) and name.startswith("text")


@dataclass(frozen=True)
class Span:
    """A part of a recording, in seconds; ``end`` None is the recording's end."""

    recording: str
    start: float = 0.0
    end: float | None = None


def parse_segment(value: str) -> Span:
    """Parse ``RECORDING START END`` (seconds; -1 is the end); else raise ValueError.

    >>> parse_segment("a 0.5 -1")
    Span(recording='a', start=0.5, end=None)
    """
    fields = value.split()
    if len(fields) != 3:
        raise ValueError(f"expected 'recording start end', found {value!r}")
    try:
        start, end = float(fields[1]), float(fields[2])
    except ValueError:
        raise ValueError(f"start or end is not a number in {value!r}") from None
    if end == -1:
        return Span(fields[0], start)
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"start must be at least 0 and before the end in {value!r}")
    return Span(fields[0], start, end)


def group_by_speaker(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """Compute ``spk2utt`` from ``utt2spk``.

    >>> group_by_speaker({"u2": "s", "u1": "s"})
    {'s': 'u1 u2'}
    """
    members: dict[str, list[str]] = defaultdict(list)
    for utterance in sorted(utt2spk):
        members[utt2spk[utterance]].append(utterance)
    return {speaker: " ".join(utterances) for speaker, utterances in members.items()}


@dataclass(frozen=True)
class DataFolder:
    """A data folder in memory; all ``tables`` have the same utterances.

    ``wav`` is the table ``source``: ``wav.scp`` or ``feats.scp``. ``tables`` have a
    line per utterance; :meth:`read` adds ``utt2spk`` if it is missing.
    ``speaker_tables`` are ``spk2gender`` and others, ``recording_tables`` ``reco2*``.
    :meth:`write` derives ``spk2utt`` from ``utt2spk``.
    """

    path: Path
    wav: dict[str, str]
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    segments: dict[str, str] | None = None
    speaker_tables: dict[str, dict[str, str]] = field(default_factory=dict)
    recording_tables: dict[str, dict[str, str]] = field(default_factory=dict)
    source: str = SOUNDS

    @classmethod
    def read(cls, path: str | Path) -> DataFolder:
        """Read a folder; raise :class:`UserError` if the keys of tables differ.

        Without ``utt2spk`` every utterance is its own speaker, and this is logged.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such data folder")
        names = sorted(item.name for item in path.iterdir() if item.is_file())
        source = source_table(path)
        # Features belong to utterances, not to recordings.
        segmented = "segments" in names and source == SOUNDS
        folder = cls(
            path=path,
            source=source,
            wav=read_table(path / source),
            segments=read_table(path / "segments") if segmented else None,
            tables={n: read_table(path / n) for n in names if is_utterance_table(n)},
            speaker_tables=_read_some(path, names, "spk2", but="spk2utt"),
            recording_tables=_read_some(path, names, "reco2") if segmented else {},
        )
        if "utt2spk" not in folder.tables:
            logging.info("%s has no utt2spk: each utterance is its own speaker", path)
            folder.tables["utt2spk"] = {key: key for key in folder.utterances}
        folder._check()
        return folder

    @property
    def utterances(self) -> list[str]:
        """Return the keys of ``segments``, or without it of ``wav``, in byte order."""
        return sorted(self.wav if self.segments is None else self.segments)

    @property
    def texts(self) -> dict[str, dict[str, str]]:
        """Return the tables ``text`` and ``text.*`` by file name."""
        return {name: table for name, table in self.tables.items() if is_text(name)}

    def span(self, utterance: str) -> Span:
        """Return an utterance's span; raise :class:`UserError` for a bad segment."""
        if self.segments is None:
            return Span(utterance)
        try:
            span = parse_segment(self.segments[utterance])
        except ValueError as error:
            raise UserError(f"{self.path}/segments: {utterance}: {error}") from None
        if span.recording not in self.wav:
            raise UserError(
                f"{self.path}/segments: {utterance}: recording {span.recording!r} "
                "is not in wav.scp"
            )
        return span

    def select(self, keep: Collection[str]) -> DataFolder:
        """Return a folder with only the utterances in ``keep``."""
        keep = frozenset(keep)
        tables = {name: _pick(table, keep) for name, table in self.tables.items()}
        speakers = frozenset(tables["utt2spk"].values())
        return replace(
            self,
            wav=self.wav if self.segments is not None else _pick(self.wav, keep),
            segments=None if self.segments is None else _pick(self.segments, keep),
            tables=tables,
            speaker_tables={
                n: _pick(table, speakers) for n, table in self.speaker_tables.items()
            },
        )

    def write(self, path: str | Path) -> None:
        """Write all tables to ``path``; the source is last and marks the end."""
        path = Path(path)
        tables = self.tables | self.speaker_tables | self.recording_tables
        for name, table in tables.items():
            write_table(path / name, table)
        if "utt2spk" in self.tables:
            write_table(path / "spk2utt", group_by_speaker(self.tables["utt2spk"]))
        if self.segments is not None:
            write_table(path / "segments", self.segments)
        write_table(path / self.source, self.wav)

    def _check(self) -> None:
        utterances = set(self.utterances)
        where = self.source if self.segments is None else "segments"
        if not utterances:
            raise UserError(f"{self.path}/{where}: no utterances")
        advice = f"`espnet-mtla validate_data {self.path} --fix` drops it"
        for name, table in self.tables.items():
            for keys, present, absent in (
                (utterances - table.keys(), where, name),
                (table.keys() - utterances, name, where),
            ):
                if keys:
                    raise UserError(
                        f"{self.path}: utterance {min(keys)!r} is in {present} but not "
                        f"in {absent} ({len(keys)} such); {advice}"
                    )


def source_table(folder: str | Path) -> str:
    """Return ``wav.scp``, or ``feats.scp`` for a folder of features.

    Kaldi writes both. Then audio is used, unless the file ``feats_type`` exists and
    holds another word than ``raw``.
    """
    folder = Path(folder)
    sounds, features = ((folder / name).is_file() for name in (SOUNDS, FEATURES))
    path = folder / "feats_type"
    if sounds and features and path.is_file():
        sounds = read_text(path).strip() == "raw"
    return SOUNDS if sounds or not features else FEATURES


def dropped_before(folder: Path, kept: Collection[str]) -> dict[str, str]:
    """Return the utterances in ``folder/dropped`` that are not in ``kept``.

    The file has the reasons why earlier steps left them out. Each step copies it, so
    that scores can tell how many utterances the whole set has.
    """
    path = folder / DROPPED
    table = read_table(path) if path.is_file() else {}
    return {key: reason for key, reason in table.items() if key not in kept}


def refuse_replacing(source: str | Path, target: str | Path) -> None:
    """Check that a command may replace the folder ``target``.

    Raises :class:`UserError` if it is the source, a file, or contains folders, such as
    audio, other than the backups of ``validate_data``.
    """
    source, target = Path(source), Path(target)
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: input and output are the same folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; the output must be a folder")
    for item in sorted(target.iterdir()) if target.is_dir() else ():
        if item.is_dir() and item.name != BACKUP:
            raise UserError(
                f"{target}: would be replaced, but holds the folder {item.name!r}; "
                "remove it or give another output"
            )


def _read_some(
    path: Path, names: Iterable[str], prefix: str, but: str = ""
) -> dict[str, dict[str, str]]:
    return {
        name: read_table(path / name)
        for name in names
        if name.startswith(prefix) and name != but and not name.endswith(_LEFTOVERS)
    }


def _pick(table: Mapping[str, str], keep: Collection[str]) -> dict[str, str]:
    return {key: value for key, value in table.items() if key in keep}

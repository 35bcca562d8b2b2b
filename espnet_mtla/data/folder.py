"""Data folders in Kaldi's layout: tables of one line an utterance, key then value.

A folder holds ``wav.scp`` (a recording a line), optionally ``segments`` (which cuts
recordings into utterances), ``utt2spk`` and ``spk2utt``, and any number of tables with
a line an utterance: ``text``, further texts such as ``text.tc.de``, and ``utt2*``.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError

# Endings of copies that editors and people leave beside a table.
_LEFTOVERS = ("~", ".bak", ".orig", ".old", ".tmp", ".swp", ".gz")
# Where validate_data --fix keeps what it changes.
BACKUP = ".backup"
# Tables that say how long the sound is: wrong as soon as the sound changes.
LENGTH_TABLES = ("utt2num_samples", "utt2dur", "utt2num_frames")
# Where an utterance's sound, or its features, are read from.
SOUNDS, FEATURES = "wav.scp", "feats.scp"
_UNFIT = re.compile("[\n\r\0\ud800-\udfff]")  # halves of characters come with JSON
_BYTE_ORDER_MARK, _CRLF = "byte-order mark", "line ends are CRLF"


@dataclass(frozen=True)
class TableLine:
    """One line of a table; ``line`` counts from 1."""

    line: int
    key: str
    value: str


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: ``line`` is 0 when the whole file is meant.

    ``what`` is the kind, the same words each time; ``detail`` belongs to this case.
    """

    file: str
    line: int
    key: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = (place, self.key, self.what, self.detail)
        return ": ".join(part for part in parts if part)


def scan_table(path: str | Path) -> tuple[list[TableLine], list[Problem]]:
    """Read a table as it stands: its good lines in file order, and what is wrong.

    A byte-order mark and CRLF line ends are read past, and reported. Only a missing
    file raises (:class:`UserError`).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    data = path.read_bytes()
    rows: list[TableLine] = []
    problems: list[Problem] = []
    if data.startswith(b"\xef\xbb\xbf"):
        problems.append(Problem(path.name, 1, "", _BYTE_ORDER_MARK))
        data = data[3:]
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    crlf = sum(line.endswith(b"\r") for line in lines)
    if crlf:
        problems.append(Problem(path.name, 0, "", _CRLF, f"{crlf} lines"))
    for number, line in enumerate(lines, 1):
        row = _parse_line(path.name, number, line.removesuffix(b"\r"))
        if isinstance(row, TableLine):
            rows.append(row)
        else:
            problems.append(row)
    return rows, problems


def _parse_line(name: str, number: int, line: bytes) -> TableLine | Problem:
    try:
        text = line.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        return Problem(name, number, "", "not UTF-8")
    if not text:
        return Problem(name, number, "", "empty line")
    if "\r" in text or "\0" in text:
        return Problem(name, number, "", "control character inside the line")
    key, *rest = text.replace("\t", " ", 1).split(" ", 1)
    if key != "".join(key.split()):
        # Readers that split at any white space would see another key.
        return Problem(name, number, key, "white space of another kind in the key")
    return TableLine(number, key, rest[0].strip() if rest else "")


def read_table(path: str | Path) -> dict[str, str]:
    """Read ``key value`` lines; the value is everything behind the first white space.

    A byte-order mark and CRLF line ends are tolerated. Raises :class:`UserError` on a
    missing file, bytes that are not UTF-8, an empty line or a key that stands twice.
    """
    path = Path(path)
    rows, problems = scan_table(path)
    for problem in problems:
        if problem.what not in (_BYTE_ORDER_MARK, _CRLF):
            raise UserError(f"{path}:{problem.line}: {problem.what}")
    table: dict[str, str] = {}
    for row in rows:
        if row.key in table:
            raise UserError(f"{path}:{row.line}: key {row.key!r} stands twice")
        table[row.key] = row.value
    return table


def write_table(path: str | Path, table: Mapping[str, str]) -> None:
    """Write ``key value`` lines sorted by the bytes of the key, whole or not at all.

    Sorting strings by code point is sorting their UTF-8 bytes, whatever the locale.
    """
    for key, value in table.items():
        if not key or len(key.split()) != 1 or key.split()[0] != key or "\0" in key:
            raise UserError(f"{path}: key {key!r} is empty or has white space")
        if _UNFIT.search(key + value):
            raise UserError(f"{path}: {key!r}: line break, NUL or surrogate: {value!r}")
    with atomic_file(path) as stream:
        for key in sorted(table):
            stream.write(f"{key} {table[key].strip()}".rstrip() + "\n")


def is_utterance_table(name: str) -> bool:
    """True for a file with a line an utterance: ``text``, ``text.*``, ``utt2*``."""
    if name.endswith(_LEFTOVERS):
        return False
    return name == "text" or name.startswith(("text.", "utt2"))


def is_text(name: str) -> bool:
    """True for ``text`` and ``text.*``."""
    return is_utterance_table(name) and name.startswith("text")


@dataclass(frozen=True)
class Span:
    """A cut of a recording, in seconds; ``end`` None is the recording's end."""

    recording: str
    start: float = 0.0
    end: float | None = None


def parse_segment(value: str) -> Span:
    """``RECORDING START END`` in seconds, END -1 for the end; ValueError otherwise."""
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
    """``spk2utt`` from ``utt2spk``."""
    members: dict[str, list[str]] = defaultdict(list)
    for utterance in sorted(utt2spk):
        members[utt2spk[utterance]].append(utterance)
    return {speaker: " ".join(utterances) for speaker, utterances in members.items()}


@dataclass(frozen=True)
class DataFolder:
    """A data folder in memory: every table shares the same utterances.

    ``wav`` is ``wav.scp``, or ``feats.scp`` where ``source`` says so (see
    :func:`source_table`). ``tables`` are those with a line an utterance, ``utt2spk``
    always among them once read; ``speaker_tables`` (``spk2gender`` ...) and
    ``recording_tables`` (``reco2*``) are carried along. ``spk2utt`` is derived from
    ``utt2spk`` when written.
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
        """Read and check a folder; :class:`UserError` when tables disagree on keys.

        Without ``utt2spk`` every utterance is its own speaker, and the log says so.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such data folder")
        names = sorted(item.name for item in path.iterdir() if item.is_file())
        source = source_table(path)
        # Features are cut already.
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
        """Keys in byte order: from ``segments`` if there is one, else ``wav.scp``."""
        return sorted(self.wav if self.segments is None else self.segments)

    @property
    def texts(self) -> dict[str, dict[str, str]]:
        """``text`` and ``text.*`` by file name."""
        return {name: table for name, table in self.tables.items() if is_text(name)}

    def span(self, utterance: str) -> Span:
        """Where an utterance's sound is; :class:`UserError` for a bad segment."""
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
        """The same folder with the utterances in ``keep`` alone."""
        keep = frozenset(keep)
        tables = {name: _pick(table, keep) for name, table in self.tables.items()}
        speakers = frozenset(tables["utt2spk"].values())
        return DataFolder(
            path=self.path,
            wav=self.wav if self.segments is not None else _pick(self.wav, keep),
            segments=None if self.segments is None else _pick(self.segments, keep),
            tables=tables,
            speaker_tables={
                name: _pick(table, speakers)
                for name, table in self.speaker_tables.items()
            },
            recording_tables=self.recording_tables,
            source=self.source,
        )

    def write(self, path: str | Path) -> None:
        """Write every table under ``path``; the source comes last, as the mark."""
        path = Path(path)
        for name, table in self.tables.items():
            write_table(path / name, table)
        for name, table in {**self.speaker_tables, **self.recording_tables}.items():
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
        advice = f"`python -m espnet_mtla.bin.validate_data {self.path} --fix` drops it"
        for name, table in self.tables.items():
            for wrong, what in (
                (utterances - table.keys(), f"is in {where} but not in {name}"),
                (table.keys() - utterances, f"is in {name} but not in {where}"),
            ):
                if wrong:
                    raise UserError(
                        f"{self.path}: utterance {min(wrong)!r} {what} "
                        f"({len(wrong)} such); {advice}"
                    )


def source_table(folder: str | Path) -> str:
    """``wav.scp``, or ``feats.scp`` for a folder of features.

    A folder with both, as Kaldi makes them, is one of sound, unless its file
    ``feats_type`` names something else than ``raw``.
    """
    folder = Path(folder)
    if not (folder / FEATURES).is_file():
        return SOUNDS
    if not (folder / SOUNDS).is_file():
        return FEATURES
    kind = folder / "feats_type"
    named = kind.read_text(encoding="utf-8").strip() if kind.is_file() else "raw"
    return SOUNDS if named == "raw" else FEATURES


def refuse_replacing(source: str | Path, target: str | Path) -> None:
    """Guard a command that replaces the folder ``target`` as a whole.

    :class:`UserError` if it is the source, a file, or holds folders (audio, say) other
    than the backups of ``validate_data``.
    """
    source, target = Path(source), Path(target)
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: input and output are the same folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; the output must be a folder")
    if target.is_dir():
        for item in sorted(target.iterdir()):
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

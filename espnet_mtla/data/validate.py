"""Find the defects of a data folder."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from espnet_mtla.data import audio
from espnet_mtla.data.folder import (
    group_by_speaker,
    is_text,
    is_utterance_table,
    parse_segment,
)
from espnet_mtla.data.table import (
    LOST_LINES,
    Problem,
    TableLine,
    scan_table,
)
from espnet_mtla.errors import UserError

UNREADABLE = ("unusable audio", "outside the recording")
"""Defects of utterances that ``format_audio --drop_bad`` leaves out."""


@dataclass(frozen=True)
class Checks:
    """What to check: ``text`` the transcript, ``sound`` the audio, by ``nj`` threads.

    ``empty_text`` accepts empty texts, as in a test set with recordings without
    speech.
    """

    text: bool = True
    sound: bool = True
    nj: int = 4
    empty_text: bool = False


@dataclass
class Inspection:
    """The contents and the defects of a folder.

    ``rows``: valid lines by file and key. ``unfit``: utterances that a repair drops,
    with reasons. ``unreadable``: places (FILE:LINE) of lines without a valid key, which
    it drops too. ``seconds``: lengths of the recordings that were opened.
    """

    path: Path
    checks: Checks
    rows: dict[str, dict[str, TableLine]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def index(self) -> str:
        """Return the name of the file that lists the utterances."""
        return "segments" if "segments" in self.rows else "wav.scp"

    def report(self, name: str, key: str, what: str, detail: str = "") -> None:
        """Record a defect at the line of ``key`` in file ``name``."""
        row = self.rows.get(name, {}).get(key)
        line = row.line if row else 0
        self.problems.append(Problem(name, line, key, what, detail))

    def condemn(self, utterances: Iterable[str], reason: str) -> None:
        """Record why utterances must be dropped; the first reason is stored."""
        for utterance in utterances:
            self.unfit.setdefault(utterance, reason)

    def values(self, name: str) -> dict[str, str]:
        """Return a table as a mapping from key to value."""
        return {key: row.value for key, row in self.rows.get(name, {}).items()}


def inspect(path: str | Path, checks: Checks) -> Inspection:
    """Run all checks; raise :class:`UserError` if the folder does not exist."""
    inspection = Inspection(Path(path), checks)
    if not inspection.path.is_dir():
        raise UserError(f"{path}: no such data folder")
    needed = {"wav.scp": ""}
    if checks.text:
        needed["text"] = "--no_text (--target_text of a recipe) if others are used"
    for name, detail in needed.items():
        if not (inspection.path / name).is_file():
            inspection.problems.append(Problem(name, 0, "", "missing file", detail))
    for item in sorted(inspection.path.iterdir()):
        if item.is_file() and _is_table(item.name):
            _check_lines(inspection, item)
    _check_keys(inspection)
    _check_texts(inspection)
    _check_speakers(inspection)
    if checks.sound:
        _check_sound(inspection)
    _check_segments(inspection)
    return inspection


def _is_table(name: str) -> bool:
    known = name in ("wav.scp", "segments", "spk2utt")
    return known or is_utterance_table(name) or is_side_table(name)


def is_side_table(name: str) -> bool:
    """Return True for a table with one line per speaker or recording."""
    return name.startswith(("spk2", "reco2")) and name != "spk2utt" and "." not in name


def _check_lines(inspection: Inspection, path: Path) -> None:
    """Check the format of lines, their order, and that keys are unique."""
    rows, problems = scan_table(path)
    inspection.problems += problems
    inspection.unreadable |= {
        f"{problem.file}:{problem.line}": problem.what
        for problem in problems
        if problem.what in LOST_LINES
    }
    table = inspection.rows.setdefault(path.name, {})
    previous = ""
    for row in rows:
        here = (path.name, row.line, row.key)
        if row.key in table:
            first = table[row.key]
            detail = f"first in line {first.line}"
            inspection.problems.append(Problem(*here, "key occurs twice", detail))
            if first.value != row.value:
                inspection.condemn([row.key], f"two different lines in {path.name}")
        elif row.key < previous:
            inspection.problems.append(
                Problem(*here, "not in byte order", f"{previous} <")
            )
        table.setdefault(row.key, row)
        previous = row.key
    if not rows and path.name in ("wav.scp", "segments"):
        inspection.problems.append(Problem(path.name, 0, "", "no lines"))


def _check_keys(inspection: Inspection) -> None:
    """Check that all tables of utterances have the same keys."""
    index = inspection.index
    utterances = inspection.rows.get(index, {}).keys()
    for name in inspection.rows:
        if not is_utterance_table(name):
            continue
        for key in sorted(utterances - inspection.rows[name].keys()):
            inspection.report(index, key, f"not in {name}")
            inspection.condemn([key], f"not in {name}")
        for key in sorted(inspection.rows[name].keys() - utterances):
            inspection.report(name, key, f"not in {index}")
            inspection.condemn([key], f"not in {index}")


def _check_texts(inspection: Inspection) -> None:
    for name, table in inspection.rows.items():
        if not is_text(name) or not inspection.checks.text:
            continue
        empty = [key for key, row in table.items() if not row.value]
        if inspection.checks.empty_text and empty:
            logging.info(
                "%s: %d of %d texts are empty, the first is %s: scoring counts what is "
                "said there",
                *(inspection.path / name, len(empty), len(table), empty[0]),
            )
            continue
        for key in empty:
            inspection.report(name, key, "empty text")
            inspection.condemn([key], f"empty {name}")


def _check_speakers(inspection: Inspection) -> None:
    """Check that ``spk2utt`` is the inverse of ``utt2spk``; either may be absent."""
    for key, speaker in inspection.values("utt2spk").items():
        if len(speaker.split()) != 1:
            inspection.report("utt2spk", key, "not one speaker", speaker)
            inspection.condemn([key], "not one speaker in utt2spk")
    if not {"utt2spk", "spk2utt"} <= inspection.rows.keys():
        return
    expected = group_by_speaker(inspection.values("utt2spk"))
    actual = inspection.values("spk2utt")
    for speaker in sorted(expected.keys() | actual.keys()):
        members = set(expected.get(speaker, "").split())
        wrong = members ^ set(actual.get(speaker, "").split())
        if wrong:
            inspection.report(
                "spk2utt", speaker, "differs from utt2spk", f"utterance {min(wrong)}"
            )


def _check_sound(inspection: Inspection) -> None:
    """Open every recording and read its end; pipes are not run."""
    from tqdm import tqdm

    sources = inspection.values("wav.scp")
    files = {key: value for key, value in sources.items() if not audio.is_pipe(value)}
    if len(files) < len(sources):
        logging.info(
            "%d commands in wav.scp were not run: espnet-mtla format_audio runs them",
            len(sources) - len(files),
        )

    def check(source: str) -> float | str:
        try:
            return audio.check_readable(source) if source else "no path"
        except UserError as error:
            return str(error)

    users = _utterances_by_recording(inspection)
    with ThreadPoolExecutor(inspection.checks.nj) as pool:
        results = tqdm(
            pool.map(check, files.values()), total=len(files), disable=None, unit="file"
        )
        for key, result in zip(files, results, strict=True):
            if isinstance(result, float):
                inspection.seconds[key] = result
            else:
                inspection.report("wav.scp", key, "unusable audio", result)
                inspection.condemn(users[key], "unusable audio")


def _utterances_by_recording(inspection: Inspection) -> dict[str, list[str]]:
    users: dict[str, list[str]] = defaultdict(list)
    if inspection.index == "wav.scp":
        return users | {key: [key] for key in inspection.rows.get("wav.scp", {})}
    for key, value in inspection.values("segments").items():
        users[value.split()[0] if value else ""].append(key)
    return users


def _check_segments(inspection: Inspection) -> None:
    for key, value in inspection.values("segments").items():
        try:
            span = parse_segment(value)
        except ValueError as error:
            inspection.report("segments", key, "bad segment", str(error))
            inspection.condemn([key], "bad segment")
            continue
        length = inspection.seconds.get(span.recording)
        if span.recording not in inspection.rows.get("wav.scp", {}):
            inspection.report(
                "segments", key, "recording not in wav.scp", span.recording
            )
            inspection.condemn([key], "recording not in wav.scp")
        elif length is not None and (
            span.start >= length
            or (span.end or 0) > length + audio.MAX_OVERSHOOT_SECONDS
        ):
            detail = f"{value} of {length:.2f} s"
            inspection.report("segments", key, "outside the recording", detail)
            inspection.condemn([key], "segment outside the recording")


def print_problems(problems: Iterable[Problem], most: int) -> None:
    """Print the first ``most`` defects of each category, and the number of others."""
    categories: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        categories[problem.file, problem.what].append(problem)
    for (name, what), group in categories.items():
        for problem in group[:most]:
            print(problem)
        if len(group) > most:
            print(f"{name}: {what}: {len(group) - most} more")

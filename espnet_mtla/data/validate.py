"""Finding what is wrong in a data folder, and repairing what is mechanical."""

from __future__ import annotations

import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from espnet_mtla.data import audio
from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.folder import (
    BACKUP,
    DataFolder,
    Problem,
    TableLine,
    group_by_speaker,
    is_text,
    is_utterance_table,
    parse_segment,
    read_table,
    scan_table,
    write_table,
)
from espnet_mtla.errors import UserError


@dataclass(frozen=True)
class Checks:
    """What a folder must have: ``text`` a transcript, ``sound`` readable audio.

    ``empty_text`` allows texts to be empty, as in a test set with recordings in which
    nothing is said.
    """

    text: bool = True
    sound: bool = True
    nj: int = 4
    empty_text: bool = False


@dataclass
class Inspection:
    """A folder as found.

    ``rows`` are its good lines by file; ``unfit`` says why an utterance cannot stay;
    ``seconds`` are the lengths of the recordings that were opened.
    """

    path: Path
    checks: Checks
    rows: dict[str, dict[str, TableLine]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def index(self) -> str:
        """The file that lists the utterances."""
        return "segments" if "segments" in self.rows else "wav.scp"

    def report(self, name: str, key: str, what: str, detail: str = "") -> None:
        """Note a problem at the line where ``key`` stands in file ``name``."""
        row = self.rows.get(name, {}).get(key)
        line = row.line if row else 0
        self.problems.append(Problem(name, line, key, what, detail))

    def condemn(self, utterances: Iterable[str], reason: str) -> None:
        """Note why utterances cannot stay; the first reason counts."""
        for utterance in utterances:
            self.unfit.setdefault(utterance, reason)

    def values(self, name: str) -> dict[str, str]:
        """A table as key to value."""
        return {key: row.value for key, row in self.rows.get(name, {}).items()}


def inspect(path: str | Path, checks: Checks) -> Inspection:
    """Look for everything that can be wrong; :class:`UserError` without a folder."""
    found = Inspection(Path(path), checks)
    if not found.path.is_dir():
        raise UserError(f"{path}: no such data folder")
    needed = {"wav.scp": ""}
    if checks.text:
        needed["text"] = "--no_text (--target_text of a recipe) if others are used"
    for name, detail in needed.items():
        if not (found.path / name).is_file():
            found.problems.append(Problem(name, 0, "", "missing file", detail))
    for item in sorted(found.path.iterdir()):
        if item.is_file() and _is_table(item.name):
            _check_lines(found, item)
    _check_keys(found)
    _check_texts(found)
    _check_speakers(found)
    if checks.sound:
        _check_sound(found)
    _check_segments(found)
    return found


def _is_table(name: str) -> bool:
    known = name in ("wav.scp", "segments", "spk2utt")
    return known or is_utterance_table(name) or _is_side_table(name)


def _is_side_table(name: str) -> bool:
    """Tables with a line a speaker or a recording."""
    return name.startswith(("spk2", "reco2")) and name != "spk2utt" and "." not in name


def _check_lines(found: Inspection, path: Path) -> None:
    """Each line by itself, the order, and keys that stand twice."""
    rows, problems = scan_table(path)
    found.problems += problems
    table = found.rows.setdefault(path.name, {})
    previous = ""
    for row in rows:
        here = (path.name, row.line, row.key)
        if row.key in table:
            first = table[row.key]
            detail = f"first in line {first.line}"
            found.problems.append(Problem(*here, "key stands twice", detail))
            if first.value != row.value:
                found.condemn([row.key], f"two different lines in {path.name}")
        elif row.key < previous:
            found.problems.append(Problem(*here, "not in byte order", f"{previous} <"))
        table.setdefault(row.key, row)
        previous = row.key
    if not rows and path.name in ("wav.scp", "segments"):
        found.problems.append(Problem(path.name, 0, "", "no lines"))


def _check_keys(found: Inspection) -> None:
    """The tables of utterances must have the same keys."""
    index = found.index
    utterances = found.rows.get(index, {}).keys()
    for name in found.rows:
        if not is_utterance_table(name):
            continue
        for key in sorted(utterances - found.rows[name].keys()):
            found.report(index, key, f"not in {name}")
            found.condemn([key], f"not in {name}")
        for key in sorted(found.rows[name].keys() - utterances):
            found.report(name, key, f"not in {index}")
            found.condemn([key], f"not in {index}")


def _check_texts(found: Inspection) -> None:
    for name, table in found.rows.items():
        if not is_text(name) or not found.checks.text:
            continue
        empty = [key for key, row in table.items() if not row.value]
        if found.checks.empty_text and empty:
            logging.info(
                "%s: %d of %d texts are empty, the first is %s: scoring counts what is "
                "said there",
                *(found.path / name, len(empty), len(table), empty[0]),
            )
            continue
        for key in empty:
            found.report(name, key, "empty text")
            found.condemn([key], f"empty {name}")


def _check_speakers(found: Inspection) -> None:
    """``spk2utt`` must be ``utt2spk`` turned round; either may be absent."""
    for key, speaker in found.values("utt2spk").items():
        if len(speaker.split()) != 1:
            found.report("utt2spk", key, "not one speaker", speaker)
            found.condemn([key], "not one speaker in utt2spk")
    if not {"utt2spk", "spk2utt"} <= found.rows.keys():
        return
    expected = group_by_speaker(found.values("utt2spk"))
    given = found.values("spk2utt")
    for speaker in sorted(expected.keys() | given.keys()):
        wanted = set(expected.get(speaker, "").split())
        wrong = wanted ^ set(given.get(speaker, "").split())
        if wrong:
            found.report(
                "spk2utt", speaker, "differs from utt2spk", f"utterance {min(wrong)}"
            )


def _check_sound(found: Inspection) -> None:
    """Open every recording and read its end; pipes are left to format_audio."""
    from tqdm import tqdm

    sources = found.values("wav.scp")
    files = {key: value for key, value in sources.items() if not audio.is_pipe(value)}
    if len(files) < len(sources):
        logging.info(
            "%d commands in wav.scp were not run: format_audio will see what they give",
            len(sources) - len(files),
        )

    def look(source: str) -> float | str:
        try:
            return audio.check_readable(source) if source else "no path"
        except UserError as error:
            return str(error)

    users = _utterances_by_recording(found)
    with ThreadPoolExecutor(found.checks.nj) as pool:
        looks = tqdm(
            pool.map(look, files.values()), total=len(files), disable=None, unit="file"
        )
        for key, result in zip(files, looks, strict=True):
            if isinstance(result, float):
                found.seconds[key] = result
            else:
                found.report("wav.scp", key, "unusable audio", result)
                found.condemn(users[key], "unusable audio")


def _utterances_by_recording(found: Inspection) -> dict[str, list[str]]:
    users: dict[str, list[str]] = defaultdict(list)
    if found.index == "wav.scp":
        return users | {key: [key] for key in found.rows.get("wav.scp", {})}
    for key, value in found.values("segments").items():
        users[value.split()[0] if value else ""].append(key)
    return users


def _check_segments(found: Inspection) -> None:
    for key, value in found.values("segments").items():
        try:
            span = parse_segment(value)
        except ValueError as error:
            found.report("segments", key, "bad segment", str(error))
            found.condemn([key], "bad segment")
            continue
        length = found.seconds.get(span.recording)
        if span.recording not in found.rows.get("wav.scp", {}):
            found.report("segments", key, "recording not in wav.scp", span.recording)
            found.condemn([key], "recording not in wav.scp")
        elif length is not None and (
            span.start >= length
            or (span.end or 0) > length + audio.MAX_OVERSHOOT_SECONDS
        ):
            detail = f"{value} of {length:.2f} s"
            found.report("segments", key, "outside the recording", detail)
            found.condemn([key], "segment outside the recording")


@dataclass(frozen=True)
class Repair:
    """What a repair did: utterances kept, dropped ones with reasons, the backup."""

    kept: int
    dropped: dict[str, str]
    backup: Path


def repair(found: Inspection) -> Repair:
    """Write the folder sorted and complete, without the utterances that are unfit.

    The tables as they were are copied to ``.backup/N`` first; reasons go to
    ``dropped``. A repair that is killed is finished by running it again. Raises
    :class:`UserError`, and changes nothing, if no utterance would be left.
    """
    for problem in found.problems:
        if problem.what == "missing file":
            raise UserError(f"{found.path / problem.file}: missing; --fix needs it")
    utterances = list(found.rows[found.index])
    kept = [key for key in utterances if key not in found.unfit]
    dropped = {key: why for key, why in found.unfit.items() if key not in kept}
    if not kept:
        counts = Counter(found.unfit.values()).most_common(1)
        most = f", most for: {counts[0][0]}" if counts else ""
        raise UserError(f"{found.path}: --fix would leave no utterance{most}")
    folder = _assemble(found).select(kept)
    if folder.segments is not None:
        used = {folder.span(key).recording for key in kept}
        folder = replace(
            folder,
            wav={key: value for key, value in folder.wav.items() if key in used},
            recording_tables={
                name: {key: value for key, value in table.items() if key in used}
                for name, table in folder.recording_tables.items()
            },
        )
    backup = _back_up(found)
    if dropped:
        earlier = found.path / "dropped"
        known = read_table(earlier) if earlier.is_file() else {}
        write_table(earlier, known | dropped)
    folder.write(found.path)
    return Repair(len(kept), dropped, backup)


def _assemble(found: Inspection) -> DataFolder:
    tables = {name: found.values(name) for name in found.rows}
    if "utt2spk" not in tables:
        speakers = {
            utterance: speaker
            for speaker, utterances in tables.get("spk2utt", {}).items()
            for utterance in utterances.split()
        }
        tables["utt2spk"] = {
            key: speakers.get(key, key) for key in found.rows[found.index]
        }
    return DataFolder(
        path=found.path,
        wav=tables["wav.scp"],
        tables={name: t for name, t in tables.items() if is_utterance_table(name)},
        segments=tables.get("segments"),
        speaker_tables={
            name: table
            for name, table in tables.items()
            if _is_side_table(name) and name.startswith("spk2")
        },
        recording_tables={
            name: table for name, table in tables.items() if name.startswith("reco2")
        },
    )


def _back_up(found: Inspection) -> Path:
    number = 1
    while (found.path / BACKUP / str(number)).exists():
        number += 1
    with atomic_folder(found.path / BACKUP / str(number)) as aside:
        for name in found.rows:
            shutil.copy2(found.path / name, aside / name)
    return found.path / BACKUP / str(number)


def print_problems(problems: Iterable[Problem], most: int) -> None:
    """Print the first ``most`` of each kind, and how many there are of it."""
    kinds: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.file, problem.what].append(problem)
    for (name, what), group in kinds.items():
        for problem in group[:most]:
            print(problem)
        if len(group) > most:
            print(f"{name}: {what}: {len(group) - most} more")

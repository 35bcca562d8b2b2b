"""Repair the defects of a data folder that need no decision."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.folder import BACKUP, DataFolder, is_utterance_table
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.data.validate import Inspection, is_side_table
from espnet_mtla.errors import UserError


@dataclass(frozen=True)
class Repair:
    """Result of a repair: number kept, dropped ones with reasons, backup folder."""

    kept: int
    dropped: dict[str, str]
    backup: Path


def repair(inspection: Inspection) -> Repair:
    """Write the folder sorted, complete and without the unfit utterances.

    The old tables are copied to ``.backup/N`` first. The reasons are added to the file
    ``dropped``. Run it again after a kill. Raises :class:`UserError`, and changes
    nothing, if no utterance would be left.
    """
    for problem in inspection.problems:
        if problem.what == "missing file":
            raise UserError(
                f"{inspection.path / problem.file}: missing; --fix needs it"
            )
    utterances = list(inspection.rows[inspection.index])
    kept = [key for key in utterances if key not in inspection.unfit]
    dropped = dict(inspection.unfit)
    lines = f"{inspection.index}:"  # a line there is an utterance, or a recording
    dropped |= {
        place: why
        for place, why in inspection.unreadable.items()
        if place.startswith(lines)
    }
    if not kept:
        counts = Counter(inspection.unfit.values()).most_common(1)
        most = f", most for: {counts[0][0]}" if counts else ""
        raise UserError(f"{inspection.path}: --fix would leave no utterance{most}")
    folder = _assemble(inspection).select(kept)
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
    backup = _back_up(inspection)
    if dropped:
        earlier = inspection.path / "dropped"
        known = read_table(earlier) if earlier.is_file() else {}
        write_table(earlier, known | dropped)
    folder.write(inspection.path)
    return Repair(len(kept), dropped, backup)


def _assemble(inspection: Inspection) -> DataFolder:
    tables = {name: inspection.values(name) for name in inspection.rows}
    if "utt2spk" not in tables:
        speakers = {
            utterance: speaker
            for speaker, utterances in tables.get("spk2utt", {}).items()
            for utterance in utterances.split()
        }
        tables["utt2spk"] = {
            key: speakers.get(key, key) for key in inspection.rows[inspection.index]
        }
    return DataFolder(
        path=inspection.path,
        wav=tables["wav.scp"],
        tables={name: t for name, t in tables.items() if is_utterance_table(name)},
        segments=tables.get("segments"),
        speaker_tables={
            name: table
            for name, table in tables.items()
            if is_side_table(name) and name.startswith("spk2")
        },
        recording_tables={
            name: table for name, table in tables.items() if name.startswith("reco2")
        },
    )


def _back_up(inspection: Inspection) -> Path:
    number = 1
    while (inspection.path / BACKUP / str(number)).exists():
        number += 1
    with atomic_folder(inspection.path / BACKUP / str(number)) as aside:
        for name in inspection.rows:
            shutil.copy2(inspection.path / name, aside / name)
    return inspection.path / BACKUP / str(number)

"""Writing a data folder's sound anew: one rate, one channel, one file format.

The work is cut into shards (:mod:`.audio_shards`), each a folder ``data/PART``. A run
that was killed keeps the finished shards whose input is unchanged. Utterances go to
shards by a hash of their recording: a long recording is opened once, and dropping an
utterance leaves the other shards as they are.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections import defaultdict
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from espnet_mtla.data import workers
from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.data.audio_shards import (
    Made,
    Part,
    Settings,
    Utterance,
    load_part,
    make_part,
)
from espnet_mtla.data.folder import (
    LENGTH_TABLES,
    DataFolder,
    group_by_speaker,
    is_utterance_table,
    write_table,
)
from espnet_mtla.errors import UserError

_PART_SIZE = 64
_MIN_PARTS = 16
_SHOWN = 10


def format_audio(
    source: str | Path,
    target: str | Path,
    settings: Settings,
    nj: int = 1,
    drop_bad: bool = False,
) -> list[Made]:
    """Write ``target`` from ``source``; see the command's help for what is in it.

    Raises :class:`UserError` if any utterance cannot be read, after all were tried, and
    names the first ten in the log; ``drop_bad`` leaves them out and lists them in
    ``target/dropped`` instead.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: input and output are the same folder")
    folder = DataFolder.read(source)
    parts = make_parts(folder, target / "data", settings)
    with workers.lock_folder(target):
        made = _make_all(parts, target, nj)
        bad = {key: why for part in made for key, why in part.bad.items()}
        _report(made, len(folder.utterances), settings)
        if bad and (not drop_bad or len(bad) == len(folder.utterances)):
            first = min(bad)
            raise UserError(
                f"{len(bad)} of {len(folder.utterances)} utterances of {source} cannot "
                f"be formatted, the first is {first}: {bad[first]}; "
                "repair them, or leave them out with --drop_bad"
            )
        _write_tables(folder, target, settings, dict(zip(parts, made, strict=True)))
    return made


def make_parts(folder: DataFolder, data: Path, settings: Settings) -> list[Part]:
    """Cut a folder into parts, the same ones for the same recordings."""
    speeds = folder.tables.get("utt2speed", {})
    count = _MIN_PARTS
    while count * _PART_SIZE < len(folder.utterances):
        count *= 2
    groups: dict[int, list[Utterance]] = defaultdict(list)
    for key in folder.utterances:
        span = folder.span(key)
        speed = _check_speed(folder, key, speeds.get(key, "1.0"))
        source = folder.wav[span.recording]
        group = zlib.crc32(span.recording.encode()) % count
        groups[group].append(Utterance(key, source, span.start, span.end, speed))
    width = len(str(count - 1))
    return [
        Part(data / f"part{group:0{width}}", tuple(groups[group]), settings)
        for group in sorted(groups)
    ]


def _check_speed(folder: DataFolder, key: str, speed: str) -> str:
    try:
        fine = 0.1 <= float(speed) <= 10
    except ValueError:
        fine = False
    if not fine:
        raise UserError(
            f"{folder.path}/utt2speed: {key}: {speed!r} is not between 0.1 and 10"
        )
    return speed


def _make_all(parts: list[Part], target: Path, nj: int) -> list[Made]:
    """Make the parts that are not there yet; what was found is kept, and said."""
    from tqdm import tqdm

    made: dict[Path, Made] = {}
    for part in parts:
        found = load_part(part)
        if found is not None:
            made[part.folder] = found
    missing = [part for part in parts if part.folder not in made]
    if made:
        logging.info("%d of %d parts are there already", len(made), len(parts))
    if missing:
        # The mark of a complete folder goes before anything it points to changes.
        (target / "wav.scp").unlink(missing_ok=True)
    total = sum(len(part.utterances) for part in missing)
    results = workers.map_unordered(make_part, missing, nj)
    with tqdm(total=total, unit="utt", disable=None, desc="format") as bar:
        try:
            for part, result in results:
                made[part.folder] = result
                bar.update(len(part.utterances))
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); run again with a "
                "smaller --nj: finished parts are kept"
            ) from None
    _remove_strangers(target / "data", {part.folder.name for part in parts})
    return [made[part.folder] for part in parts]


def _remove_strangers(data: Path, names: set[str]) -> None:
    """Remove what earlier runs left: other parts, and halves of killed ones."""
    for item in data.iterdir():
        if item.name not in names and item.name.lstrip(".").startswith("part"):
            shutil.rmtree(item)


def _report(made: list[Made], total: int, settings: Settings) -> None:
    rates: dict[int, int] = defaultdict(int)
    clipped: dict[str, int] = {}
    bad: dict[str, str] = {}
    for part in made:
        for rate in part.resampled.values():
            rates[rate] += 1
        clipped |= part.clipped
        bad |= part.bad
    for rate, count in sorted(rates.items()):
        logging.info("%d utterances resampled, %d to %d Hz", count, rate, settings.fs)
    if clipped:
        logging.warning(
            "%d samples beyond full scale were clipped in %d utterances, most in %s",
            sum(clipped.values()),
            len(clipped),
            max(clipped, key=clipped.__getitem__),
        )
    for key in sorted(bad)[:_SHOWN]:
        logging.error("%s: %s", key, bad[key])
    if len(bad) > _SHOWN:
        logging.error("... and %d more", len(bad) - _SHOWN)
    written = sum(len(part.samples) for part in made)
    if written + len(bad) != total:
        raise RuntimeError(f"{total} utterances in, {written} + {len(bad)} out")
    seconds = sum(sum(part.samples.values()) for part in made) / settings.fs
    logging.info(
        "in %d = written %d + unusable %d utterances, %.2f hours",
        *(total, written, len(bad), seconds / 3600),
    )


def _write_tables(
    folder: DataFolder, target: Path, settings: Settings, made: dict[Part, Made]
) -> None:
    """Write the tables beside the sound; ``wav.scp``, the mark, comes last."""
    samples = {key: n for result in made.values() for key, n in result.samples.items()}
    bad = {key: why for result in made.values() for key, why in result.bad.items()}
    kept = folder.select(samples)
    gone = ("utt2speed", *LENGTH_TABLES)
    tables = {name: table for name, table in kept.tables.items() if name not in gone}
    tables["utt2num_samples"] = {key: str(count) for key, count in samples.items()}
    tables["utt2dur"] = {k: f"{n / settings.fs:.4f}" for k, n in samples.items()}
    tables["spk2utt"] = group_by_speaker(kept.tables["utt2spk"])
    tables |= kept.speaker_tables
    wav = {
        key: f"{part.folder}/{place}"
        for part, result in made.items()
        for key, place in result.path.items()
    }
    for item in target.iterdir():
        stale = is_utterance_table(item.name) and item.name not in tables
        if item.is_file() and (stale or item.name in ("segments", "dropped")):
            item.unlink()
    for name, table in tables.items():
        write_table(target / name, table)
    if bad:
        write_table(target / "dropped", bad)
    for name, value in (("feats_type", "raw"), ("audio_format", settings.audio_format)):
        with atomic_file(target / name) as stream:
            stream.write(f"{value}\n")
    write_table(target / "wav.scp", wav)

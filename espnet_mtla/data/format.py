"""Convert a data folder's audio to one sampling rate, one channel and one format.

The audio is written in shards (:mod:`.audio_shards`), each a folder ``data/partN``. A
second run reuses the finished shards whose inputs are unchanged. A hash of the
recording assigns utterances to shards: a long recording is opened once, and dropping an
utterance changes only one shard.
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
    Settings,
    Shard,
    ShardResult,
    ShardUtterance,
    load_shard,
    make_shard,
)
from espnet_mtla.data.folder import (
    DROPPED,
    LENGTH_TABLES,
    DataFolder,
    dropped_before,
    group_by_speaker,
    is_utterance_table,
)
from espnet_mtla.data.lock import lock_folder
from espnet_mtla.data.table import write_table
from espnet_mtla.errors import UserError

_SHARD_SIZE = 64
_MIN_SHARDS = 16
_SHOWN = 10


def format_audio(
    source: str | Path,
    target: str | Path,
    settings: Settings,
    nj: int = 1,
    drop_bad: bool = False,
) -> list[ShardResult]:
    """Write the data folder ``target`` from ``source``.

    Args:
        source, target: data folders; ``target`` may hold an earlier run.
        settings: format of the audio.
        nj: worker processes.
        drop_bad: leave out utterances that cannot be read, and list them in
            ``target/dropped``.
    Returns:
        The results of all shards.
    Raises:
        UserError: utterances cannot be read. All are tried first; ten are logged.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise UserError(f"{target}: input and output are the same folder")
    folder = DataFolder.read(source)
    shards = make_shards(folder, target / "data", settings)
    with lock_folder(target):
        results = _write_missing(shards, target, nj)
        bad = {key: why for shard in results for key, why in shard.bad.items()}
        _report(results, len(folder.utterances), settings)
        if bad and (not drop_bad or len(bad) == len(folder.utterances)):
            first = min(bad)
            raise UserError(
                f"{len(bad)} of {len(folder.utterances)} utterances of {source} cannot "
                f"be formatted, the first is {first}: {bad[first]}; "
                "repair them, or leave them out with --drop_bad"
            )
        _write_tables(folder, target, settings, dict(zip(shards, results, strict=True)))
    return results


def make_shards(folder: DataFolder, data: Path, settings: Settings) -> list[Shard]:
    """Distribute utterances over shards, by a hash of their recordings."""
    speeds = folder.tables.get("utt2speed", {})
    count = _MIN_SHARDS
    while count * _SHARD_SIZE < len(folder.utterances):
        count *= 2
    groups: dict[int, list[ShardUtterance]] = defaultdict(list)
    for key in folder.utterances:
        span = folder.span(key)
        speed = _check_speed(folder, key, speeds.get(key, "1.0"))
        source = folder.wav[span.recording]
        group = zlib.crc32(span.recording.encode()) % count
        groups[group].append(ShardUtterance(key, source, span.start, span.end, speed))
    width = len(str(count - 1))
    return [
        Shard(data / f"part{group:0{width}}", tuple(groups[group]), settings)
        for group in sorted(groups)
    ]


def _check_speed(folder: DataFolder, key: str, speed: str) -> str:
    """Return ``speed``; raise UserError unless it is a number from 0.1 to 10."""
    try:
        valid = 0.1 <= float(speed) <= 10
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"{folder.path}/utt2speed: {key}: {speed!r} is not between 0.1 and 10"
        )
    return speed


def _write_missing(shards: list[Shard], target: Path, nj: int) -> list[ShardResult]:
    """Write the shards that do not exist yet; return the results of all."""
    from tqdm import tqdm

    results: dict[Path, ShardResult] = {}
    for shard in shards:
        earlier = load_shard(shard)
        if earlier is not None:
            results[shard.folder] = earlier
    missing = [shard for shard in shards if shard.folder not in results]
    if results:
        logging.info("%d of %d shards exist already", len(results), len(shards))
    if missing:
        # Without wav.scp the folder is incomplete: remove it before the audio changes.
        (target / "wav.scp").unlink(missing_ok=True)
    total = sum(len(shard.utterances) for shard in missing)
    new = workers.map_unordered(make_shard, missing, nj)
    with tqdm(total=total, unit="utt", disable=None, desc="format") as bar:
        try:
            for shard, result in new:
                results[shard.folder] = result
                bar.update(len(shard.utterances))
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed (out of memory?); run again with a "
                "smaller --nj: finished shards are kept"
            ) from None
    _remove_leftovers(target / "data", {shard.folder.name for shard in shards})
    return [results[shard.folder] for shard in shards]


def _remove_leftovers(data: Path, names: set[str]) -> None:
    """Remove the shards of other settings, and unfinished ones of killed runs."""
    for item in data.iterdir():
        if item.name not in names and item.name.lstrip(".").startswith("part"):
            shutil.rmtree(item)


def _report(results: list[ShardResult], total: int, settings: Settings) -> None:
    """Log the numbers of utterances in, resampled, clipped, unusable and written."""
    rates: dict[int, int] = defaultdict(int)
    clipped: dict[str, int] = {}
    bad: dict[str, str] = {}
    for shard in results:
        for rate in shard.resampled.values():
            rates[rate] += 1
        clipped |= shard.clipped
        bad |= shard.bad
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
    written = sum(len(shard.samples) for shard in results)
    if written + len(bad) != total:
        raise RuntimeError(f"{total} utterances in, {written} + {len(bad)} out")
    seconds = sum(sum(shard.samples.values()) for shard in results) / settings.fs
    logging.info(
        "in %d = written %d + unusable %d utterances, %.2f hours",
        *(total, written, len(bad), seconds / 3600),
    )


def _write_tables(
    folder: DataFolder,
    target: Path,
    settings: Settings,
    results: dict[Shard, ShardResult],
) -> None:
    """Write the tables beside the audio; ``wav.scp`` comes last and marks the end."""
    samples = {
        key: n for result in results.values() for key, n in result.samples.items()
    }
    bad = {key: why for result in results.values() for key, why in result.bad.items()}
    dropped = dropped_before(folder.path, samples) | bad
    kept = folder.select(samples)
    stale = ("utt2speed", *LENGTH_TABLES)
    tables = {name: table for name, table in kept.tables.items() if name not in stale}
    tables["utt2num_samples"] = {key: str(count) for key, count in samples.items()}
    tables["utt2dur"] = {k: f"{n / settings.fs:.4f}" for k, n in samples.items()}
    tables["spk2utt"] = group_by_speaker(kept.tables["utt2spk"])
    tables |= kept.speaker_tables
    wav = {
        key: f"{shard.folder}/{place}"
        for shard, result in results.items()
        for key, place in result.path.items()
    }
    for item in target.iterdir():
        old = is_utterance_table(item.name) and item.name not in tables
        if item.is_file() and (old or item.name in ("segments", DROPPED)):
            item.unlink()
    for name, table in tables.items():
        write_table(target / name, table)
    if dropped:
        write_table(target / DROPPED, dropped)
    for name, value in (("feats_type", "raw"), ("audio_format", settings.audio_format)):
        with atomic_file(target / name) as stream:
            stream.write(f"{value}\n")
    write_table(target / "wav.scp", wav)

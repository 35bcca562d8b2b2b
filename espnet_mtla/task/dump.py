"""Compute the features of a data folder once and store them in archives.

Utterances are divided into shards of ``Storage.size`` utterances. Each shard is one
archive, written atomically, with a JSON file that holds a hash of its inputs:
front-end, settings, checkpoint and sound files. A resumed or repeated run reuses the
shards whose hash is unchanged.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import shutil
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from espnet_mtla.data import workers
from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.data.audio import open_audio, source_file
from espnet_mtla.data.features import Written, write_features
from espnet_mtla.data.folder import FEATURES, SOUNDS, DataFolder
from espnet_mtla.data.lock import lock_folder
from espnet_mtla.errors import UserError
from espnet_mtla.frontend.record import FRONTEND_RECORD
from espnet_mtla.task.feature_maker import FeatureMaker
from espnet_mtla.text_files import read_json

if TYPE_CHECKING:
    import numpy as np

_BYTES_PER_ENTRY = 300  # headers, index and padding of an utterance, at most
# Forked workers inherit this: a model is too large to be pickled with each job.
_inherited: dict[int, tuple[FeatureMaker, Storage, dict[Path, str]]] = {}
_numbers = itertools.count()


@dataclass(frozen=True)
class Storage:
    """Storage of features: ``kind`` is zip or ark, ``size`` is utterances per shard."""

    kind: str = "zip"
    dtype: str = "float32"
    size: int = 1000


@dataclass(frozen=True)
class Shard:
    """One archive to write: its path and the sound of its utterances by key."""

    path: Path
    sources: dict[str, str]

    @property
    def mark(self) -> Path:
        """Path of the JSON file with the hash of the archive's inputs."""
        return self.path.with_suffix(".json")

    def key(self, maker: dict[str, object], storage: Storage) -> str:
        """Return a hash of the archive's inputs: front-end, storage, sound files."""
        files = {}
        for source in self.sources.values():
            path = source_file(source)
            if path is not None and path.is_file():
                files[str(path)] = [path.stat().st_size, path.stat().st_mtime_ns]
        content = [maker, storage.kind, storage.dtype, self.sources, files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def dump_features(
    data: str | Path,
    target: str | Path,
    args: Namespace,
    storage: Storage,
    nj: int = 1,
    device: str = "cpu",
) -> DataFolder:
    """Write ``target``, a copy of the data folder with features instead of sound.

    Args:
        data: data folder with sound, without segments.
        target: data folder to write.
        args: ``frontend`` and ``frontend_conf``, as in a training configuration.
        storage: archive format, number format and shard size.
        nj: number of processes.
        device: torch device of the front-end.
    Returns:
        The written folder.
    Raises:
        UserError: the sound is unreadable, or the disk has too little free space.
    """
    data, target = Path(data), Path(target)
    if target.resolve() == data.resolve():
        raise UserError(f"{target}: input and output are the same folder")
    folder = DataFolder.read(data)
    if folder.source != SOUNDS or folder.segments is not None:
        raise UserError(
            f"{data}: sound without segments needed: run espnet-mtla format_audio"
        )
    with _one_thread(nj > 1), lock_folder(target):
        maker = FeatureMaker(args, device)
        check_room(folder, maker, storage, target)
        shards = make_shards(folder, target, storage)
        written = _make_all(shards, maker, storage, nj)
        return _write_tables(folder, target, maker, storage, written)


@contextlib.contextmanager
def _one_thread(enabled: bool) -> Iterator[None]:
    """Limit torch to one thread: forked workers must not share a thread pool."""
    before = torch.get_num_threads()
    if enabled:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_room(
    folder: DataFolder, maker: FeatureMaker, storage: Storage, target: Path
) -> None:
    """Log the estimated size of the features, from the longest utterance.

    Args:
        folder: data folder with sound.
        maker: front-end.
        storage: number format.
        target: folder on the disk to write to.
    Raises:
        UserError: the estimate exceeds the free space; the message names both.
    """
    seconds = _seconds(folder, maker.rate)
    key = max(seconds, key=seconds.__getitem__)
    features = maker(key, folder.wav[key])
    per_second = len(features) / seconds[key]
    width = features.shape[1]
    item = 2 if storage.dtype == "float16" else 4
    total = sum(seconds.values())
    needed = total * per_second * width * item + len(seconds) * _BYTES_PER_ENTRY
    free = shutil.disk_usage(target).free
    logging.info(
        "%d utterances, %.2f hours, %.0f frames a second of %d x %s: about %.3f GB; "
        "%.1f GB are free",
        *(len(seconds), total / 3600, per_second, width, storage.dtype),
        *(needed / 1e9, free / 1e9),
    )
    there = sum(file.stat().st_size for file in target.glob("data/feats.*"))
    if needed > free + there:
        raise UserError(
            f"{target}: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "choose one layer, --dtype float16 or another disk"
        )


def _seconds(folder: DataFolder, rate: int) -> dict[str, float]:
    """Return the length of each utterance, from utt2num_samples or file headers."""
    samples = folder.tables.get("utt2num_samples", {})
    seconds = {}
    for key, source in folder.wav.items():
        if samples.get(key, "").isdigit():
            seconds[key] = int(samples[key]) / rate
        else:
            try:
                with open_audio(source) as sound:
                    seconds[key] = sound.frames / sound.samplerate
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
    return seconds


def make_shards(folder: DataFolder, target: Path, storage: Storage) -> list[Shard]:
    """Divide a folder into shards of ``storage.size`` utterances, in order of keys."""
    keys = folder.utterances
    parts = [keys[i : i + storage.size] for i in range(0, len(keys), storage.size)]
    digits = len(str(len(parts) - 1))
    return [
        Shard(
            target / "data" / f"feats.{number:0{digits}}.{storage.kind}",
            {key: folder.wav[key] for key in part},
        )
        for number, part in enumerate(parts)
    ]


def _make_all(
    shards: Sequence[Shard], maker: FeatureMaker, storage: Storage, nj: int
) -> dict[Path, Written]:
    from tqdm import tqdm

    identity = maker.identity
    keys = {shard.path: shard.key(identity, storage) for shard in shards}
    written = {}
    for shard in shards:
        reused = _load_mark(shard, keys[shard.path])
        if reused is not None:
            written[shard.path] = reused
    missing = [shard for shard in shards if shard.path not in written]
    if written:
        logging.info("%d of %d archives are there already", len(written), len(shards))
    if missing:
        # feats.scp marks a complete folder: delete it before its archives change.
        (shards[0].path.parents[1] / FEATURES).unlink(missing_ok=True)

    job = next(_numbers)
    _inherited[job] = (maker, storage, keys)
    total = sum(len(shard.sources) for shard in missing)
    try:
        with tqdm(total=total, unit="utt", disable=None, desc="features") as bar:
            work = functools.partial(_work, job)
            for shard, archive in workers.map_unordered(work, missing, nj):
                written[shard.path] = archive
                bar.update(len(shard.sources))
    finally:
        del _inherited[job]
    return written


def _work(job: int, shard: Shard) -> Written:
    maker, storage, keys = _inherited[job]
    return _make_shard(shard, maker, storage, keys[shard.path])


def _make_shard(
    shard: Shard, maker: FeatureMaker, storage: Storage, key: str
) -> Written:
    shard.mark.unlink(missing_ok=True)

    def rows() -> Iterator[tuple[str, np.ndarray]]:
        for name, source in shard.sources.items():
            yield name, maker(name, source)

    written = write_features(shard.path, rows(), storage.dtype)
    with atomic_file(shard.mark) as stream:
        json.dump({"key": key, "written": asdict(written)}, stream)
    return written


def _load_mark(shard: Shard, key: str) -> Written | None:
    if not (shard.mark.is_file() and shard.path.is_file()):
        return None
    content = read_json(shard.mark, "delete it and run again")
    return Written(**content["written"]) if content["key"] == key else None


def _write_tables(
    folder: DataFolder,
    target: Path,
    maker: FeatureMaker,
    storage: Storage,
    written: dict[Path, Written],
) -> DataFolder:
    places: dict[str, str] = {}
    frames: dict[str, str] = {}
    for path, archive in written.items():
        places |= archive.places_in(path.parent)
        frames |= {key: str(count) for key, count in archive.frames.items()}
    if len(places) != len(folder.utterances):
        raise RuntimeError(f"{len(folder.utterances)} in, {len(places)} out")
    used = {name for path in written for name in (path.name, f"{path.stem}.json")}
    for file in (target / "data").glob("feats.*"):
        if file.name not in used:
            file.unlink()
    with atomic_file(target / FRONTEND_RECORD) as stream:
        json.dump(maker.identity, stream, indent=2)
    with atomic_file(target / "feats_type") as stream:
        stream.write(f"features_{storage.kind}\n")
    dumped = DataFolder(
        path=target,
        wav=places,
        tables={**folder.tables, "utt2num_frames": frames},
        speaker_tables=folder.speaker_tables,
        source=FEATURES,
    )
    dumped.write(target)
    logging.info("in %d = written %d utterances", len(folder.utterances), len(places))
    return dumped

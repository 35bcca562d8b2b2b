"""Drop utterances that training or decoding cannot use, and count them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.atomic import atomic_folder
from espnet_mtla.data.folder import (
    DROPPED,
    DataFolder,
    dropped_before,
    refuse_replacing,
)
from espnet_mtla.data.table import write_table
from espnet_mtla.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Inclusive limits on seconds of audio and on characters of each text.

    ``empty_text`` keeps utterances with an empty text, which training cannot use.
    """

    min_seconds: float = 0.1
    max_seconds: float = 30.0
    max_chars: int | None = None
    empty_text: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise UserError(
                f"--min_seconds {self.min_seconds:g} must be below "
                f"--max_seconds {self.max_seconds:g}, and not negative"
            )
        if self.max_chars is not None and self.max_chars < 1:
            raise UserError(f"--max_chars {self.max_chars}: must be at least 1")


def filter_data(
    source: str | Path, target: str | Path, limits: Limits
) -> dict[str, str]:
    """Replace ``target`` by the utterances of ``source`` within ``limits``.

    The audio is not copied: ``wav.scp`` names the original files.

    Returns:
        The reason for each utterance dropped here; ``target/dropped`` has those of
        ``source/dropped``, too.
    Raises:
        UserError: no utterance is left.
    """
    refuse_replacing(source, target)
    folder = DataFolder.read(source)
    if folder.segments is not None:
        raise UserError(
            f"{source}: has segments; run espnet-mtla format_audio on it first"
        )
    seconds = read_seconds(folder)
    dropped: dict[str, tuple[str, str]] = {}
    for key in folder.utterances:
        rejection = judge(folder, key, seconds[key], limits)
        if rejection:
            dropped[key] = rejection
    kept = [key for key in folder.utterances if key not in dropped]
    _print_counts(folder, kept, dropped, seconds)
    reasons = {key: f"{reason}: {detail}" for key, (reason, detail) in dropped.items()}
    if not kept:
        first = min(reasons)
        raise UserError(
            f"{source}: no utterance is left of {len(dropped)}; the first, {first}, "
            f"is {reasons[first]}"
        )
    with atomic_folder(target) as aside:
        folder.select(kept).write(aside)
        earlier = dropped_before(folder.path, kept)
        write_table(aside / DROPPED, earlier | reasons)
        for name in ("feats_type", "audio_format"):
            if (folder.path / name).is_file():
                (aside / name).write_bytes((folder.path / name).read_bytes())
    return reasons


def read_seconds(folder: DataFolder) -> dict[str, float]:
    """Return each utterance's seconds, from ``utt2dur`` or else from the audio."""
    if "utt2dur" not in folder.tables:
        from espnet_mtla.data.audio import check_readable

        logging.info("%s has no utt2dur: reading every sound", folder.path)
        return {key: check_readable(source) for key, source in folder.wav.items()}
    table = folder.tables["utt2dur"]
    seconds = {}
    for key, value in table.items():
        try:
            seconds[key] = float(value)
        except ValueError:
            seconds[key] = math.nan
        if not seconds[key] >= 0:
            raise UserError(f"{folder.path}/utt2dur: {key}: {value!r} is not a length")
    return seconds


def judge(
    folder: DataFolder, key: str, seconds: float, limits: Limits
) -> tuple[str, str] | None:
    """Return the first reason to drop an utterance, with detail, or None."""
    for name, table in folder.texts.items():
        if not table[key] and not limits.empty_text:
            return "empty text", name
    if seconds < limits.min_seconds:
        return "too short", f"{seconds:.2f} s, at least {limits.min_seconds:g} s"
    if seconds > limits.max_seconds:
        return "too long", f"{seconds:.2f} s, at most {limits.max_seconds:g} s"
    if limits.max_chars is not None:
        for name, table in folder.texts.items():
            if len(table[key]) > limits.max_chars:
                detail = f"{len(table[key])} in {name}, at most {limits.max_chars}"
                return "too many characters", detail
    return None


def _print_counts(
    folder: DataFolder,
    kept: list[str],
    dropped: dict[str, tuple[str, str]],
    seconds: dict[str, float],
) -> None:
    """Print utterances and hours: in, dropped by reason, and kept."""

    def line(name: str, keys: list[str]) -> None:
        hours = sum(seconds[key] for key in keys) / 3600
        print(f"{name:<30}{len(keys):>9}{hours:>9.2f}")

    total = folder.utterances
    if len(total) != len(kept) + len(dropped):
        raise RuntimeError(f"{len(total)} in, {len(kept)} + {len(dropped)} out")
    print(f"{folder.path!s:<30}{'utts':>9}{'hours':>9}")
    line("in", total)
    for reason in Counter(reason for reason, _ in dropped.values()):
        keys = [key for key in dropped if dropped[key][0] == reason]
        line(f"dropped, {reason}", keys)
    line("kept", kept)

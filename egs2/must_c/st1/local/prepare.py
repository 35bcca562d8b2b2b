"""MuST-C v1.0 to Kaldi data folders: English talks, their transcripts and translations.

Read are ``en-LANG/data/SPLIT/txt/SPLIT.{yaml,en,LANG}``, in which line n of both texts
belongs to entry n of the list, and ``SPLIT/wav``. A talk is one recording; the entries
become ``segments``. Written are the texts as they stand (``text.tc.LANG``,
``text.tc.en``), the transcript in lower case without punctuation (``text.lc.rm.en``),
and ``text``, which is the translation.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.data.audio import MAX_OVERSHOOT_SECONDS, open_audio
from espnet_mtla.data.corpus import (
    corpus_parser,
    find_folder,
    require_file,
    write_sets,
)
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError

LANGUAGES = ("de", "es", "fr", "it", "nl", "pt", "ro", "ru")
SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
DECIMALS = 6
"""Of the seconds in ``segments``, as in later releases."""


@dataclass(frozen=True)
class Entry:
    """One line of the list: a cut of a talk, in seconds."""

    talk: str
    speaker: str
    offset: float
    duration: float


def prepare(corpus: Path, language: str, data: Path, drop_bad: bool = False) -> None:
    """Write ``data/SPLIT.en-LANG`` for each of :data:`SPLITS`.

    Nothing is written before all are read. Raises UserError naming the file or entry
    that cannot be used.
    """
    root = find_root(corpus, language)
    folders = {
        split: read_split(root / split, split, language, drop_bad) for split in SPLITS
    }
    write_sets(data, {f"{split}.en-{language}": folders[split] for split in SPLITS})
    report_shared_talks(folders)


def report_shared_talks(folders: dict[str, DataFolder]) -> None:
    """Say so where a talk that is trained on is tested on too."""
    for split in SPLITS[1:]:
        shared = sorted(folders["train"].wav.keys() & folders[split].wav.keys())
        if shared:
            print(f"{split}: {len(shared)} talks stand in train too, first {shared[0]}")


def find_root(corpus: Path, language: str) -> Path:
    """The folder of the splits, from the corpus, the pair's folder or that itself."""
    places = [corpus / f"en-{language}" / "data", corpus / "data", corpus]
    # Another pair's folder has the same splits; its texts tell.
    return find_folder(
        places,
        f"train/txt/train.{language}",
        f"name the folder that holds en-{language} with --corpus",
    )


def read_split(folder: Path, split: str, language: str, drop_bad: bool) -> DataFolder:
    """A split in memory; each entry is kept or counted with the reason why not."""
    stem = folder / "txt" / split
    entries = read_entries(Path(f"{stem}.yaml"))
    english = read_lines(Path(f"{stem}.en"), len(entries))
    target = read_lines(Path(f"{stem}.{language}"), len(entries))
    tables: dict[str, dict[str, str]] = defaultdict(dict)
    segments: dict[str, str] = {}
    talks: dict[str, float | str] = {}
    counter = DropCounter(split, "entries", drop_bad, f"{stem}.yaml")
    numbers: Counter[str] = Counter()
    seen: dict[Entry, str] = {}
    for entry, source, translation in zip(entries, english, target, strict=True):
        key = f"{entry.talk}_{numbers[entry.talk]:04d}"
        numbers[entry.talk] += 1
        if entry.talk not in talks:
            talks[entry.talk] = length(folder / "wav" / f"{entry.talk}.wav")
        reason, detail = fault(entry, talks[entry.talk])
        if reason:
            counter.refuse(reason, f"{key} ({detail})")
        elif entry in seen:
            counter.refuse("the same cut occurs twice", f"{key} and {seen[entry]}")
        elif not source or not translation:
            counter.drop("with an empty text", key)
        else:
            seen[entry] = key
            end = entry.offset + entry.duration
            segments[key] = (
                f"{entry.talk} {entry.offset:.{DECIMALS}f} {end:.{DECIMALS}f}"
            )
            tables["utt2spk"][key] = entry.speaker
            tables["text"][key] = tables[f"text.tc.{language}"][key] = translation
            tables["text.tc.en"][key] = source
            tables["text.lc.rm.en"][key] = normalise(source)
            counter.keep()
    counter.close()
    used = {value.split()[0] for value in segments.values()}
    wav = {talk: str((folder / "wav" / f"{talk}.wav").resolve()) for talk in used}
    return DataFolder(folder, wav, dict(tables), segments)


def read_entries(path: Path) -> list[Entry]:
    """The list, one entry a line; fields that later releases add are read past."""
    import yaml

    text = decode(require_file(path))
    # In C where PyYAML has it: the list of a training set has 230,000 entries.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        rows = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: broken ({said}); get the file again") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: not a list of entries; get the file again")
    return [parse_entry(path, number, row) for number, row in enumerate(rows, 1)]


def parse_entry(path: Path, number: int, row: object) -> Entry:
    """One ``{duration, offset, speaker_id, wav}``; UserError names entry and field."""
    if not isinstance(row, dict):
        raise UserError(f"{path}: entry {number}: not fields and values: {row!r}")
    for name in ("duration", "offset", "speaker_id", "wav"):
        if row.get(name) in (None, ""):
            raise UserError(f"{path}: entry {number}: no {name}")
    try:
        offset, duration = float(row["offset"]), float(row["duration"])
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: entry {number}: offset {row['offset']!r} and duration "
            f"{row['duration']!r} must be numbers"
        ) from None
    name, speaker = str(row["wav"]), str(row["speaker_id"])
    for field in (name, speaker):
        if field.split() != [field] or "/" in field:
            raise UserError(f"{path}: entry {number}: unusable name {field!r}")
    return Entry(name.removesuffix(".wav"), speaker, offset, duration)


def read_lines(path: Path, count: int) -> list[str]:
    """``count`` lines, outer white space stripped; UserError for another number.

    Lines end in LF alone: a text may hold the other characters that Python's
    ``splitlines`` would cut at.
    """
    text = decode(require_file(path))
    lines = text.removesuffix("\n").split("\n") if text else []
    if len(lines) != count:
        raise UserError(
            f"{path}: {len(lines)} lines, but the list beside it has {count} entries; "
            "get the corpus again"
        )
    return [" ".join(line.split()) for line in lines]


def decode(path: Path) -> str:
    """The whole file, white space of all kinds as it stands."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); get the file again") from None


def length(path: Path) -> float | str:
    """Seconds of sound by the file's header, or what is wrong with the file."""
    try:
        with open_audio(str(path)) as sound:
            return sound.frames / sound.samplerate
    except UserError as error:
        return str(error)


def fault(entry: Entry, seconds: float | str) -> tuple[str, str]:
    """Why the entry cannot be cut out of its talk, and the case; empty where it can."""
    cut = f"{entry.offset:g} s + {entry.duration:g} s"
    end = entry.offset + entry.duration
    if isinstance(seconds, str):
        return "unusable sound file", seconds
    written = round(entry.offset, DECIMALS) < round(end, DECIMALS)
    if not (entry.offset >= 0 and written and math.isfinite(end)):
        return "offset and duration are no part of a recording", cut
    # Times were rounded by someone; what is cut has at least one sample.
    if entry.offset >= seconds or end > seconds + MAX_OVERSHOOT_SECONDS:
        detail = f"{cut} of {entry.talk}.wav, which has {seconds:.2f} s"
        return "beyond the end of the sound", detail
    return "", ""


def normalise(text: str) -> str:
    """Lower case without punctuation, ``'`` and ``-`` inside of words kept.

    A line of nothing but signs, such as the notes that stand for music, stays as it
    is: no entry is lost for having no words.
    """
    lowered = text.lower().replace("\u2019", "'")
    words = re.sub(r"[^\w\s'-]|_", " ", lowered)  # first: "_" counts as part of a word
    kept = re.sub(r"(?<!\w)['-]+|['-]+(?!\w)", " ", words)
    return " ".join(kept.split()) or text


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder that holds en-LANG as unpacked from MUSTC_v1.0_en-LANG.tar.gz",
        drop_bad="leave out and count entries whose sound is missing or too short",
    )
    parser.add_argument("--lang", default="de", choices=LANGUAGES, help="translations")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    prepare(args.corpus, args.lang, args.data, args.drop_bad)


if __name__ == "__main__":
    run(main)

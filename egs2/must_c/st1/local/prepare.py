"""Prepare MuST-C v1.0: English talks with transcripts and translations.

Input: ``en-LANG/data/SPLIT/txt/SPLIT.{yaml,en,LANG}``, in which line n of both texts
belongs to entry n of the list, and ``SPLIT/wav``. A talk is one recording; an entry is
a line of ``segments``. Output texts: ``text`` and ``text.tc.LANG`` (translation,
unchanged), ``text.tc.en`` (transcript, unchanged), ``text.lc.rm.en`` (transcript in
lower case without punctuation).
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
"""Decimal places of the seconds in ``segments``, as in later releases."""


@dataclass(frozen=True)
class Entry:
    """One line of the list: a cut of a talk, in seconds."""

    talk: str
    speaker: str
    offset: float
    duration: float


def prepare(corpus: Path, language: str, data: Path, drop_bad: bool = False) -> None:
    """Write ``data/SPLIT.en-LANG`` for each of :data:`SPLITS`, all or none.

    Args:
        corpus: the unpacked corpus.
        language: of the translations, one of :data:`LANGUAGES`.
        data: parent of the folders to write.
        drop_bad: drop unusable entries instead of raising.
    Raises:
        UserError: a file or an entry is unusable; the message names it.
    """
    root = find_root(corpus, language)
    folders = {
        split: read_split(root / split, split, language, drop_bad) for split in SPLITS
    }
    write_sets(data, {f"{split}.en-{language}": folders[split] for split in SPLITS})
    report_shared_talks(folders)


def report_shared_talks(folders: dict[str, DataFolder]) -> None:
    """Print the talks of test and validation sets that are in training, too."""
    for split in SPLITS[1:]:
        shared = sorted(folders["train"].wav.keys() & folders[split].wav.keys())
        if shared:
            print(f"{split}: {len(shared)} talks are in train, too, first {shared[0]}")


def find_root(corpus: Path, language: str) -> Path:
    """Return the folder of the splits: ``corpus`` itself or a folder below it."""
    places = [corpus / f"en-{language}" / "data", corpus / "data", corpus]
    # Folders of other languages have the same splits: look for a text.
    return find_folder(
        places,
        f"train/txt/train.{language}",
        f"name the folder that holds en-{language} with --corpus",
    )


def read_split(folder: Path, split: str, language: str, drop_bad: bool) -> DataFolder:
    """Read a split; count the entries that are dropped, with the reason.

    Args:
        folder: the split's folder in the corpus.
        split: its name.
        language: of the translations.
        drop_bad: drop unusable entries instead of raising.
    """
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
    """Read the list of entries; additional fields of later releases are ignored."""
    import yaml

    text = decode(require_file(path))
    # A training set has 230,000 entries: use the C parser if PyYAML has it.
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
    """Parse one ``{duration, offset, speaker_id, wav}``.

    Raises:
        UserError: a field is missing or unusable; the message names entry and field.
    """
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
    """Read ``count`` lines with normalised white space; raise UserError otherwise.

    Lines end in LF alone: texts may contain other characters at which Python's
    ``splitlines`` splits.
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
    """Read a UTF-8 file without changing its line ends."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); get the file again") from None


def length(path: Path) -> float | str:
    """Return the seconds of sound by the file's header, or the error message."""
    try:
        with open_audio(str(path)) as sound:
            return sound.frames / sound.samplerate
    except UserError as error:
        return str(error)


def fault(entry: Entry, seconds: float | str) -> tuple[str, str]:
    """Return why an entry cannot be cut out of its talk, and details; "" if it can.

    ``seconds`` is the length of the talk, or the error message of its file.
    """
    cut = f"{entry.offset:g} s + {entry.duration:g} s"
    end = entry.offset + entry.duration
    if isinstance(seconds, str):
        return "unusable sound file", seconds
    written = round(entry.offset, DECIMALS) < round(end, DECIMALS)
    if not (entry.offset >= 0 and written and math.isfinite(end)):
        return "offset and duration are no part of a recording", cut
    # Published times are rounded: an end slightly beyond the sound is accepted.
    if entry.offset >= seconds or end > seconds + MAX_OVERSHOOT_SECONDS:
        detail = f"{cut} of {entry.talk}.wav, which has {seconds:.2f} s"
        return "beyond the end of the sound", detail
    return "", ""


def normalise(text: str) -> str:
    """Lower the case and remove punctuation, except ``'`` and ``-`` inside words.

    A text without words, such as musical notes, is returned unchanged, so that its
    entry is not lost.

    >>> normalise("Well, it's state-of-the-art!"), normalise("(♪)")
    ("well it's state-of-the-art", '(♪)')
    """
    lowered = text.lower().replace("\u2019", "'")
    words = re.sub(r"[^\w\s'-]|_", " ", lowered)  # first: "_" counts as part of a word
    words = re.sub(r"(?<!\w)['-]+|['-]+(?!\w)", " ", words)
    return " ".join(words.split()) or text


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder that holds en-LANG as unpacked from MUSTC_v1.0_en-LANG.tar.gz",
        drop_bad="drop and count entries whose sound is missing or too short",
    )
    parser.add_argument("--lang", default="de", choices=LANGUAGES, help="translations")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    prepare(args.corpus, args.lang, args.data, args.drop_bad)


if __name__ == "__main__":
    run(main)

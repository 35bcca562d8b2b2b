"""Prepare data/{train,valid,test_cs,test_nl} from the game's Czech and Dutch lines.

Levels are divided into the sets. ``text`` has the words spoken, lower-case and without
punctuation. The recipe st1 uses the same sets.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

from corpus import (
    EXPECTED,
    SPOKEN,
    Recording,
    fetch,
    find_game,
    is_readable,
    read_recordings,
)

from espnet_mtla.bin.cli import run
from espnet_mtla.data.corpus import write_sets
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError

# Part of all lines whose levels are held out for each set.
HELD_OUT = {"test": 0.12, "valid": 0.05}

Sets = dict[str, list[Recording]]


def read_languages(game: Path, any_count: bool) -> dict[str, list[Recording]]:
    """Return the recordings of both languages; check and print their numbers.

    Args:
        game: folder of ``sound`` and ``script``.
        any_count: accept other numbers than those of version 1.0.1.
    Raises:
        UserError: the numbers differ.
    """
    recordings = {}
    for language in SPOKEN:
        recordings[language], files = read_recordings(game, language)
        count, expected = len(recordings[language]), EXPECTED[language]
        print(f"{language}: {files:,} recordings, {count:,} with a text")
        if count != expected and not any_count:
            raise UserError(
                f"{game}: {count:,} lines spoken in {language} have a text, "
                f"{expected:,} in version 1.0.1 of the packages: unpack them again, or "
                "accept this with --any_count"
            )
    return recordings


def usable(recordings: Sequence[Recording], language: str) -> list[Recording]:
    """Return the recordings that can be learned from; print the others' number."""
    counter = DropCounter(language, "lines")
    left = []
    for recording in recordings:
        if not recording.words:
            counter.drop("text without words", recording.key)
        elif not is_readable(recording.texts[language]):
            counter.drop("digits, symbols or another script", recording.key)
        elif recording.seconds == 0:
            counter.drop("sound without samples", recording.key)
        else:
            left.append(recording)
            counter.keep()
    counter.close()
    return left


def split_levels(recordings: Sequence[Recording], seed: int) -> dict[str, str]:
    """Return the set of each level: ``test``, ``valid`` or ``train``.

    Levels are drawn at random until a set has its part of all lines.
    """
    sizes = Counter(recording.level for recording in recordings)
    levels = sorted(sizes)
    Random(f"{seed} levels").shuffle(levels)
    sets = dict.fromkeys(levels, "train")
    for name, share in HELD_OUT.items():
        missing = share * len(recordings)
        for level in levels:
            if missing > 0 and sets[level] == "train":
                sets[level] = name
                missing -= sizes[level]
    return sets


def split(recordings: Sequence[Recording], seed: int) -> Sets:
    """Divide lines into ``train``, ``valid`` and ``test``, apart in levels and texts.

    A line leaves training, or validation, if its sound or its text in any language also
    occurs in a set that is held out from it.
    """
    level_set = split_levels(recordings, seed)
    sets: Sets = {"train": [], "valid": [], "test": []}
    for recording in recordings:
        sets[level_set[recording.level]].append(recording)
    held_out: set[tuple[str, str]] = set()
    for name in ("test", "valid", "train"):
        members = sets[name]
        sets[name] = [r for r in members if not r.marks() & held_out]
        held_out |= {mark for r in members for mark in r.marks()}
        if len(sets[name]) < len(members):
            dropped = len(members) - len(sets[name])
            print(f"{name}: {dropped} lines dropped: their text is in a held-out set")
    return sets


def check_apart(sets: Sets) -> None:
    """Raise AssertionError if a level, sound or text is in two sets."""
    owner: dict[tuple[str, str], str] = {}
    for name, recordings in sets.items():
        for recording in recordings:
            for mark in {("level", recording.level)} | recording.marks():
                if owner.setdefault(mark, name) != name:
                    raise AssertionError(f"{mark} is in {owner[mark]} and {name}")


def by_language(sets: Sets, languages: Iterable[str]) -> Sets:
    """Return the lines spoken in ``languages``, with a test set for each of them."""
    languages = list(languages)
    chosen = {
        name: [r for r in sets[name] if r.language in languages]
        for name in ("train", "valid")
    }
    for language in languages:
        chosen[f"test_{language}"] = [r for r in sets["test"] if r.language == language]
    return chosen


def report(sets: Sets) -> None:
    """Print the size of each set, and the part of test words unseen in training."""
    print(f"{'set':<10}{'lines':>7}{'minutes':>9}{'words':>8}{'levels':>8}")
    for name, recordings in sets.items():
        seconds = sum(r.seconds for r in recordings)
        words = sum(len(r.words.split()) for r in recordings)
        levels = len({r.level for r in recordings})
        print(
            f"{name:<10}{len(recordings):>7}{seconds / 60:>9.1f}{words:>8}{levels:>8}"
        )
    known = {(r.language, word) for r in sets["train"] for word in r.words.split()}
    for name in [name for name in sets if name.startswith("test")]:
        words = [(r.language, word) for r in sets[name] for word in r.words.split()]
        new = 100 * sum(word not in known for word in words) / max(1, len(words))
        print(f"{name}: {new:.1f} % of the words never occur in training")


def data_folder(
    recordings: Sequence[Recording], tables: Mapping[str, Mapping[str, str]]
) -> DataFolder:
    """Return a set with its ``tables`` of texts; the sound stays in the packages."""
    return DataFolder(
        Path(),
        wav={r.key: str(r.path.absolute()) for r in recordings},
        tables={
            **tables,
            "utt2spk": {r.key: r.speaker for r in recordings},
            "utt2lang": {r.key: r.language for r in recordings},
        },
    )


def read_sets(args: argparse.Namespace) -> Sets:
    """Read the packages and divide all lines; ``args`` has those of `add_options`."""
    if args.corpus and not args.corpus.is_dir():
        raise UserError(f"--corpus {args.corpus}: no such folder")
    game = find_game(args.corpus or fetch(args.downloads))
    recordings = [
        recording
        for language, lines in read_languages(game, args.any_count).items()
        for recording in usable(lines, language)
    ]
    sets = split(recordings, args.seed)
    check_apart(sets)
    print("checked: each level, sound and text is in one set only")
    return sets


def require_lines(sets: Sets) -> None:
    """Raise UserError if a set is empty."""
    for name, recordings in sets.items():
        if not recordings:
            raise UserError(
                f"{name}: no lines left; name the complete corpus, or --seed"
            )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every recipe on these lines."""
    add = parser.add_argument
    add(
        "--corpus",
        type=Path,
        help="folder with the packages unpacked (/usr/share where they are installed); "
        "without it they are downloaded by apt",
    )
    add("--downloads", type=Path, default=Path("downloads"), help="for apt")
    add("--data", type=Path, default=Path("data"), help="output folder")
    add("--seed", type=int, default=1, help="of the division into sets")
    add(
        "--any_count",
        action="store_true",
        help="accept packages with more or fewer lines than version 1.0.1",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--languages", nargs="+", default=SPOKEN, choices=SPOKEN)
    add_options(parser)
    args = parser.parse_args()
    sets = by_language(read_sets(args), dict.fromkeys(args.languages))
    require_lines(sets)
    report(sets)
    write_sets(
        args.data,
        {
            name: data_folder(rs, {"text": {r.key: r.words for r in rs}})
            for name, rs in sets.items()
        },
    )


if __name__ == "__main__":
    run(main)

"""Prepare telephone prompts: train, valid and two test sets.

Utterances are of two types: combinations, joined from recorded words as a telephone
exchange joins them, and prompts that were recorded as whole sentences.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from combine import Combiner, contains_any, piece_classes
from corpus import Recording, fetch_packages, read_corpus
from sentences import split_sentences, trigrams

from espnet_mtla.bin.cli import run
from espnet_mtla.data.atomic import atomic_folders
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LANGUAGES = ("en", "es", "fr", "it", "ru")
FS = 8000
HELD_OUT = ("test_combinations", "test_sentences", "valid")
SETS = ("train", *HELD_OUT[::-1])


@dataclass(frozen=True)
class Sizes:
    """Sizes of the sets for each language; see :data:`HELP`."""

    train_combinations: int = 15000
    valid_combinations: int = 120
    test_combinations: int = 250
    valid_sentences: int = 40
    test_sentences: int = 80
    sentence_copies: int = 6
    max_seconds: float = 15.0


HELP = {
    "train_combinations": "utterances joined from recorded words, for each language",
    "valid_combinations": "joined utterances for validation, for each language",
    "test_combinations": "joined utterances for testing, for each language",
    "valid_sentences": "prompts held out for validation, for each language, at most",
    "test_sentences": "prompts held out for testing, for each language, at most",
    "sentence_copies": "copies of each other prompt in training, at different tempos",
    "max_seconds": "longest prompt, in seconds",
}


@dataclass(frozen=True)
class Utterance:
    """An utterance to write: recordings to join, or one unchanged (``as_recorded``)."""

    key: str
    text: str
    pieces: tuple[Recording, ...]
    as_recorded: bool = False


def fetch(languages: list[str], downloads: Path) -> list[Path]:
    """Download and unpack the packages of each language; return their folders."""
    return [fetch_packages(language, downloads) for language in languages]


def prepare(
    folders: dict[str, Path], data: Path, sizes: Sizes, seed: int
) -> dict[str, list[Utterance]]:
    """Write the four sets of :data:`SETS` below ``data``, all or none.

    Equal arguments give equal files.

    Args:
        folders: {language: folder of its packages}.
        data: parent of the folders to write.
        sizes: sizes of the sets.
        seed: of all random choices.
    Returns:
        the utterances of each set.
    Raises:
        UserError: a file is unusable; the message names it.
    """
    sets: dict[str, list[Utterance]] = {name: [] for name in SETS}
    sounds: dict[str, np.ndarray] = {}
    for language, folder in folders.items():
        planned = plan(language, folder, sizes, seed, sounds)
        check_apart(planned)
        for name, utterances in planned.items():
            sets[name].extend(utterances)
    write_sounding_sets(data, sets, sounds, seed)
    report_overlap(sets)
    return sets


def plan(
    language: str, folder: Path, sizes: Sizes, seed: int, sounds: dict[str, np.ndarray]
) -> dict[str, list[Utterance]]:
    """Divide the prompts of one language among the sets.

    Args:
        language: one of :data:`LANGUAGES`.
        folder: its packages.
        sizes: sizes of the sets.
        seed: of all random choices.
        sounds: gets the samples of each recording, by path.
    """
    from sound import load

    recordings, dropped, listed = read_corpus(folder, language)
    usable = []
    for recording in recordings:
        samples = load(recording.path, FS)
        if len(samples) > sizes.max_seconds * FS:
            dropped[f"longer than {sizes.max_seconds:g} s"] += 1
            continue
        sounds[str(recording.path)] = samples
        usable.append(recording)
    if listed != len(usable) + dropped.total():
        raise AssertionError(f"{language}: {listed} prompts read, not as many counted")
    print(f"{language}: {listed} prompts listed, {len(usable)} used")
    for reason, count in sorted(dropped.items()):
        print(f"{language}: {count} dropped: {reason}")
    return split(language, usable, sizes, seed)


def split(
    language: str, recordings: list[Recording], sizes: Sizes, seed: int
) -> dict[str, list[Utterance]]:
    """Draw combinations, held-out ones first; then divide the sentences.

    Raises:
        UserError: a recording is tested on and never trained on.
    """
    by_name = {r.name: r for r in recordings}
    texts = {name: r.text for name, r in by_name.items()}
    combiner = Combiner(texts, language == "en", seed)
    drawn = {
        "test_combinations": combiner.draw("test", sizes.test_combinations, True),
        "valid": combiner.draw("valid", sizes.valid_combinations, True),
        "train": combiner.draw("train", sizes.train_combinations, False),
    }
    sets: dict[str, list[Utterance]] = {name: [] for name in SETS}
    for set_name, combinations in drawn.items():
        for number, names in enumerate(combinations):
            text = " ".join(combiner.words(names))
            pieces = tuple(by_name[name] for name in names)
            key = f"{language}-comb-{set_name}-{number:05d}"
            sets[set_name].append(Utterance(key, text, pieces))
    uses = Counter(name for names in drawn["train"] for name in names)
    in_test = {n for s in drawn.values() for names in s for n in names} - set(uses)
    if in_test:
        raise UserError(
            f"{sorted(in_test)[0]} is tested on but never trained on; raise "
            "--train_combinations"
        )
    report_classes(language, uses)
    rest = [r for r in recordings if r.name not in uses]
    held_out = [sizes.test_sentences, sizes.valid_sentences]
    test, valid, train = split_sentences(
        rest, [by_name[name] for name in sorted(uses)], held_out, seed
    )
    sets["test_sentences"] = _sentences(language, test, 1)
    sets["valid"] += _sentences(language, valid, 1)
    sets["train"] += _sentences(language, train, sizes.sentence_copies)
    return sets


def _sentences(
    language: str, recordings: list[Recording], copies: int
) -> list[Utterance]:
    """Return each prompt as recorded and ``copies - 1`` variants of it.

    The variants have random tempo and level.
    """
    return [
        Utterance(
            f"{language}-sent-{r.name.replace('/', '_')}-{copy}",
            r.text,
            (r,),
            copy == 0,
        )
        for r in recordings
        for copy in range(copies)
    ]


def check_apart(sets: dict[str, list[Utterance]]) -> None:
    """Raise AssertionError if a held-out utterance of a language is in another set.

    Recording and text of a held-out sentence are in one set alone, and in no
    combination. The word sequence of a held-out combination is part of no training
    text.
    """
    owner: dict[str, str] = {}
    for name, utterances in sets.items():
        for utterance in utterances:
            marks = [utterance.text]
            if "-sent-" in utterance.key:
                marks.append(str(utterance.pieces[0].path))
            for mark in marks:
                if owner.setdefault(mark, name) != name:
                    raise AssertionError(f"{mark!r} is in {owner[mark]} and {name}")
    for utterance in sets["train"]:
        for piece in utterance.pieces:
            if owner.get(str(piece.path), "train") != "train":
                raise AssertionError(f"{utterance.key} contains {piece.name}, held out")
    held_out = {
        tuple(u.text.split())
        for name in HELD_OUT
        for u in sets[name]
        if "-comb-" in u.key
    }
    for utterance in sets["train"]:
        if contains_any(tuple(utterance.text.split()), held_out):
            raise AssertionError(f"{utterance.key} contains a held-out combination")


def write_sounding_sets(
    data: Path,
    sets: Mapping[str, list[Utterance]],
    sounds: Mapping[str, np.ndarray],
    seed: int,
    further: Mapping[str, dict[str, dict[str, str]]] | None = None,
) -> None:
    """Write ``data/NAME`` for each set, all or none, and print their sizes.

    Args:
        data: parent of the folders.
        sets: {name: utterances}.
        sounds: samples by path of the recording.
        seed: of tempo, level and pauses.
        further: {name: additional tables}.
    """
    print(f"{'set':<20}{'utterances':>10}{'minutes':>9}{'words':>8}{'different':>10}")
    with atomic_folders(data / name for name in sets) as asides:
        for aside, (name, utterances) in zip(asides, sets.items(), strict=True):
            tables = {
                "text": {u.key: u.text for u in utterances},
                "utt2spk": {u.key: u.key.partition("-")[0] for u in utterances},
                **(further or {}).get(name, {}),
            }
            seconds = write_sound(aside / "wav", utterances, sounds, seed)
            wav = {u.key: str(data / name / "wav" / f"{u.key}.wav") for u in utterances}
            DataFolder(data / name, wav, tables).write(aside)
            words = [word for u in utterances for word in u.text.split()]
            print(
                f"{name:<20}{len(utterances):>10}{seconds / 60:>9.1f}{len(words):>8}"
                f"{len(set(words)):>10}",
                flush=True,
            )


def write_sound(
    folder: Path,
    utterances: list[Utterance],
    sounds: Mapping[str, np.ndarray],
    seed: int,
) -> float:
    """Write a 16-bit ``KEY.wav`` for each utterance; return the total seconds."""
    import soundfile
    from sound import join

    folder.mkdir()
    written = 0
    for utterance in utterances:
        pieces = [sounds[str(r.path)] for r in utterance.pieces]
        rng = Random(f"{seed} {utterance.key}")
        samples = pieces[0] if utterance.as_recorded else join(pieces, FS, rng)
        soundfile.write(folder / f"{utterance.key}.wav", samples, FS, subtype="PCM_16")
        written += len(samples)
    return written / FS


def report_classes(language: str, uses: Counter[str]) -> None:
    """Print how often recordings are used in combinations, by class."""
    print(f"{language}: {'class':<16}{'recordings':>10}{'rarest':>8}{'uses':>8}")
    for name, (count, rarest, total) in piece_classes(uses).items():
        print(f"{language}: {name:<16}{count:>10}{rarest:>8}{total:>8}")


def report_overlap(sets: dict[str, list[Utterance]]) -> None:
    """Print the share of words and word trigrams of test sets unseen in training."""
    words = {word for u in sets["train"] for word in u.text.split()}
    seen = {trigram for u in sets["train"] for trigram in trigrams(u.text)}
    for name in HELD_OUT[:2]:
        tested = [word for u in sets[name] for word in u.text.split()]
        in_test = [trigram for u in sets[name] for trigram in trigrams(u.text)]
        if not tested or not in_test:
            continue
        new = sum(word not in words for word in tested) / len(tested)
        unseen = sum(trigram not in seen for trigram in in_test) / len(in_test)
        print(
            f"{name}: {100 * new:.1f} % of the words and {100 * unseen:.0f} % of "
            "the word trigrams do not occur in training"
        )


def add_options(p: argparse.ArgumentParser) -> None:
    """Add the options of all recipes with these recordings, sizes among them."""
    p.add_argument(
        "--corpus",
        type=Path,
        help="folder with the packages unpacked (/usr/share if they are installed); "
        "default: apt downloads them",
    )
    p.add_argument("--downloads", type=Path, default=Path("downloads"), help="for apt")
    p.add_argument("--data", type=Path, default=Path("data"), help="output folder")
    p.add_argument("--seed", type=int, default=1, help="of every random choice")
    for name, value in vars(Sizes()).items():
        p.add_argument(f"--{name}", type=type(value), default=value, help=HELP[name])


def read_sizes(args: argparse.Namespace) -> Sizes:
    """Return the sizes among the options of :func:`add_options`; check the options."""
    if args.corpus and not args.corpus.is_dir():
        raise UserError(f"--corpus {args.corpus}: no such folder")
    sizes = Sizes(**{name: getattr(args, name) for name in vars(Sizes())})
    for name, value in vars(sizes).items():
        if value <= 0:
            raise UserError(f"--{name} {value}: must be above 0")
    return sizes


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--languages", nargs="+", default=["en"], choices=LANGUAGES)
    add_options(p)
    args = p.parse_args()
    sizes = read_sizes(args)
    folders = (
        [args.corpus] * len(args.languages)
        if args.corpus
        else fetch(args.languages, args.downloads)
    )
    by_language = dict(zip(args.languages, folders, strict=True))
    prepare(by_language, args.data, sizes, args.seed)


if __name__ == "__main__":
    run(main)

"""Prepare spoken captions of pictures: train, valid and two test sets.

Each utterance has three texts: ``text.spoken``, the words of the caption;
``text.intent``, the class of the picture, then those words; ``text.en``, the English
caption, unchanged. The recipe st1 uses the same data.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from random import Random

from captions import (
    LANGUAGES,
    PACKAGE,
    Caption,
    drop_duplicates,
    group,
    read_captions,
)

from espnet_mtla.bin.cli import run
from espnet_mtla.data import debian as apt
from espnet_mtla.data.corpus import write_sets
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.errors import UserError

SETS = ("train", "valid", "test_pictures", "test_recordings")
# Shares of the groups of which all recordings, or those in one language, are held out.
PICTURES = {"test_pictures": 0.09, "valid": 0.04}
RECORDINGS = {"test_recordings": 0.35, "valid": 0.1}


def fetch(downloads: Path) -> Path:
    """Download and unpack the package; return its folder."""
    instead = (
        f"unpack the Debian package {PACKAGE} into a folder by other means and name it "
        "with --corpus"
    )
    return apt.fetch_packages([PACKAGE], downloads / "corpus", instead)


def split(groups: list[list[Caption]], seed: int) -> dict[str, list[Caption]]:
    """Divide the groups among the sets.

    A group in ``test_pictures`` is in no other set. Of a group in ``test_recordings``
    the recordings in one language are held out; the others are in training. ``valid``
    has groups of both types.
    """
    rng = Random(f"{seed} split")
    order = sorted(groups, key=lambda members: members[0].key)
    rng.shuffle(order)
    sets: dict[str, list[Caption]] = {name: [] for name in SETS}
    start = 0
    for name, share in PICTURES.items():
        end = start + round(share * len(order))
        for members in order[start:end]:
            sets[name] += members
        start = end
    rest = order[start:]
    held_out = {}
    for name, share in RECORDINGS.items():
        count = round(share * len(rest))
        held_out |= dict.fromkeys(range(len(held_out), len(held_out) + count), name)
    for number, members in enumerate(rest):
        languages = sorted({caption.language for caption in members})
        name = held_out.get(number)
        chosen = rng.choice(languages) if name and len(languages) > 1 else None
        for caption in members:
            sets[name if caption.language == chosen else "train"].append(caption)
    return sets


def subset(sets: dict[str, list[Caption]], share: float, seed: int) -> None:
    """Reduce each set to a random ``share`` of its captions, in place."""
    for name, captions in sets.items():
        count = max(1, round(share * len(captions)))
        sets[name] = Random(f"{seed} {name}").sample(captions, count)


def check_apart(sets: dict[str, list[Caption]]) -> None:
    """Raise AssertionError if a held-out recording or caption is in training, too."""
    sounds = {c.digest for c in sets["train"]}
    spoken = {(c.language, c.words) for c in sets["train"]}
    english = {c.english for c in sets["train"]}
    for name in SETS[1:]:
        for caption in sets[name]:
            if caption.digest in sounds or (caption.language, caption.words) in spoken:
                raise AssertionError(f"{caption.key} of {name} is in training, too")
            if name == "test_pictures" and caption.english in english:
                raise AssertionError(f"{caption.key}: {caption.english} is in training")


def tables_of(captions: list[Caption]) -> DataFolder:
    """Return the data folder of a set; ``wav.scp`` names files of the package."""
    texts: dict[str, dict[str, str]] = {"text.spoken": {}, "text.intent": {}}
    texts |= {"text.en": {}, "utt2spk": {}}
    wav = {caption.key: str(caption.path.absolute()) for caption in captions}
    for caption in captions:
        texts["text.spoken"][caption.key] = caption.words
        texts["text.intent"][caption.key] = f"{caption.intent} {caption.words}"
        texts["text.en"][caption.key] = caption.english
        texts["utt2spk"][caption.key] = caption.language
    return DataFolder(Path(), wav, texts)


def report(sets: dict[str, list[Caption]]) -> None:
    """Print the sizes of sets and classes, and the share of unseen words."""
    print(f"{'set':<18}{'utterances':>10}{'captions':>10}{'languages':>10}")
    for name, captions in sets.items():
        english = {caption.english for caption in captions}
        languages = {caption.language for caption in captions}
        print(f"{name:<18}{len(captions):>10}{len(english):>10}{len(languages):>10}")
    for intent, count in Counter(c.intent for c in sets["train"]).most_common():
        print(f"train: {intent:<16}{count:>6}")
    known = {(c.language, word) for c in sets["train"] for word in c.words.split()}
    written = {word for c in sets["train"] for word in c.english.split()}
    for name in SETS[2:]:
        words = [(c.language, w) for c in sets[name] for w in c.words.split()]
        english = [word for c in sets[name] for word in c.english.split()]
        new = 100 * sum(word not in known for word in words) / len(words)
        strange = 100 * sum(word not in written for word in english) / len(english)
        print(
            f"{name}: {new:.1f} % of the words spoken and {strange:.1f} % of the "
            "English ones do not occur in training"
        )


def prepare(
    folder: Path, data: Path, languages: list[str], share: float, seed: int
) -> None:
    """Write the four sets below ``data``; equal arguments give equal files.

    Args:
        folder: the unpacked package.
        data: parent of the folders to write.
        languages: spoken languages to use.
        share: part of each set to keep, in 0..1.
        seed: of all random choices.
    Raises:
        UserError: the package is broken, or a set would be empty.
    """
    captions, dropped, total = read_captions(folder, languages)
    captions, duplicates = drop_duplicates(captions)
    dropped["the same sound as another"] = duplicates
    if total != len(captions) + dropped.total():
        raise AssertionError(f"{total} recordings read, not as many counted")
    print(f"{total} recordings read, {len(captions)} used")
    for reason, count in sorted(dropped.items()):
        print(f"{count} dropped: {reason}")
    sets = split(group(captions), seed)
    if share < 1:
        subset(sets, share, seed)
    for name, members in sets.items():
        if not members:
            raise UserError(f"{folder}: too few captions: nothing is left for {name}")
    check_apart(sets)
    report(sets)
    write_sets(data, {name: tables_of(members) for name, members in sets.items()})


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options of stage 1."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES)
    p.add_argument(
        "--corpus",
        type=Path,
        help=f"folder with {PACKAGE} unpacked (/usr/share if it is installed); "
        "default: apt downloads the package",
    )
    p.add_argument("--downloads", type=Path, default=Path("downloads"), help="for apt")
    p.add_argument("--data", type=Path, default=Path("data"), help="output folder")
    p.add_argument("--share", type=float, default=1.0, help="part of each set to keep")
    p.add_argument("--seed", type=int, default=1, help="of every random choice")
    return p


def main() -> None:
    args = parser().parse_args()
    if args.corpus and not args.corpus.is_dir():
        raise UserError(f"--corpus {args.corpus}: no such folder")
    if not 0 < args.share <= 1:
        raise UserError(f"--share {args.share}: above 0 and at most 1")
    folder = args.corpus or fetch(args.downloads)
    prepare(folder, args.data, args.languages, args.share, args.seed)


if __name__ == "__main__":
    run(main)

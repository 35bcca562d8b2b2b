"""Prepare telephone prompts in one language with their texts in another one.

Names of prompts are the same in all languages, so the lists are parallel. Sound and
sets are prepared as in ../asr1. The translation of a combination is that of its
prompts in the same order, as an exchange would announce it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corpus import (
    Recording,
    find_list,
    packages,
    read_corpus,
    read_transcripts,
    readable,
    symbol_readings,
)
from prepare import (
    FS,
    HELD_OUT,
    LANGUAGES,
    Sizes,
    Utterance,
    add_options,
    check_apart,
    read_sizes,
    report_overlap,
    split,
    write_sounding_sets,
)

from espnet_mtla.bin.cli import run
from espnet_mtla.data import debian as apt
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SPOKEN = "text.spoken"


def fetch(spoken: str, written: str, downloads: Path) -> Path:
    """Download sound and list of one language and the list of another one."""
    names = [*packages(spoken), packages(written)[0]]
    instead = (
        f"unpack the Debian packages {', '.join(names)} into a folder by other means "
        "and name it with --corpus"
    )
    return apt.fetch_packages(names, downloads / f"corpus-{spoken}-{written}", instead)


def translations(folder: Path, language: str) -> dict[str, str]:
    """Return {name of prompt: words} of the unambiguous texts of a language."""
    texts = read_transcripts(find_list(folder, language))
    readings = symbol_readings(texts)
    read = {
        name: readable(raw[0], readings)[0]
        for name, raw in texts.items()
        if len(raw) == 1
    }
    return {name: text for name, text in read.items() if text}


def plan(
    folder: Path, spoken: str, written: str, sizes: Sizes, seed: int
) -> tuple[dict[str, list[Utterance]], dict[str, str], dict[str, np.ndarray]]:
    """Divide the prompts among the sets.

    Args:
        folder: the packages.
        spoken: language of the sound.
        written: language of the texts.
        sizes: sizes of the sets.
        seed: of all random choices.
    Returns:
        {set: utterances}, {name of prompt: translation}, {path: samples}.
    """
    from sound import load

    recordings, dropped, listed = read_corpus(folder, spoken)
    target = translations(folder, written)
    usable: list[Recording] = []
    sounds = {}
    for recording in recordings:
        samples = load(recording.path, FS)
        if recording.name not in target:
            dropped[f"no usable text in {written}"] += 1
        elif len(samples) > sizes.max_seconds * FS:
            dropped[f"longer than {sizes.max_seconds:g} s"] += 1
        else:
            sounds[str(recording.path)] = samples
            usable.append(recording)
    if listed != len(usable) + dropped.total():
        raise AssertionError(f"{listed} prompts read, not as many counted")
    print(f"{spoken}: {listed} prompts listed, {len(usable)} used")
    for reason, count in sorted(dropped.items()):
        print(f"{spoken}: {count} dropped: {reason}")
    return split(spoken, usable, sizes, seed), target, sounds


def translate(utterance: Utterance, target: dict[str, str]) -> Utterance:
    """Return the utterance with the text in the other language."""
    text = " ".join(target[piece.name] for piece in utterance.pieces)
    return replace(utterance, text=text)


def drop_known(
    train: list[Utterance], held_out: list[Utterance], target: dict[str, str]
) -> list[Utterance]:
    """Drop training utterances that have the translation of a held-out one.

    Different prompts may have the same translation; the split compares spoken texts
    only.
    """
    known = {translate(u, target).text for u in held_out}
    unseen = [u for u in train if translate(u, target).text not in known]
    print(f"train: {len(train) - len(unseen)} dropped: translation is held out")
    return unseen


def prepare(
    folder: Path, pair: tuple[str, str], data: Path, sizes: Sizes, seed: int
) -> None:
    """Write the four sets below ``data``; equal arguments give equal files.

    Args:
        folder: the packages.
        pair: languages of sound and texts.
        data: parent of the folders to write.
        sizes: sizes of the sets.
        seed: of all random choices.
    """
    sets, target, sounds = plan(folder, *pair, sizes, seed)
    held_out = [u for name in HELD_OUT for u in sets[name]]
    sets["train"] = drop_known(sets["train"], held_out, target)
    check_apart(sets)
    written = {
        name: [translate(u, target) for u in utterances]
        for name, utterances in sets.items()
    }
    further = {n: {SPOKEN: {u.key: u.text for u in sets[n]}} for n in sets}
    write_sounding_sets(data, written, sounds, seed, further)
    report_overlap(written)


def parse_pair(text: str) -> tuple[str, str]:
    """Split ``en-fr`` into two languages of :data:`LANGUAGES`.

    >>> parse_pair("en-fr")
    ('en', 'fr')
    """
    spoken, _, written = text.partition("-")
    if spoken not in LANGUAGES or written not in LANGUAGES or spoken == written:
        raise UserError(
            f"--pair {text}: two different languages of {' '.join(LANGUAGES)} needed, "
            "such as en-fr"
        )
    return spoken, written


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument(
        "--pair", default="en-fr", help="languages of the sound and of the texts"
    )
    add_options(p)
    args = p.parse_args()
    pair, sizes = parse_pair(args.pair), read_sizes(args)
    folder = args.corpus or fetch(*pair, args.downloads)
    prepare(folder, pair, args.data, sizes, args.seed)


if __name__ == "__main__":
    run(main)

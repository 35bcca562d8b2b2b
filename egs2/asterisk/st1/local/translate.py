"""Telephone prompts in one language, their texts in another: Kaldi data folders.

Names of prompts are the same in all languages, so the lists are parallel. Sound and
sets are made as in ../asr1; a combination's translation is that of its prompts, in
their order, which is how an exchange speaks the other language.
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
    """Sound and list of one language, the list of another; the folder they lie in."""
    names = [*packages(spoken), packages(written)[0]]
    instead = (
        f"unpack the Debian packages {', '.join(names)} into a folder by other means "
        "and name it with --corpus"
    )
    return apt.fetch_packages(names, downloads / f"corpus-{spoken}-{written}", instead)


def translations(folder: Path, language: str) -> dict[str, str]:
    """Texts by name of prompt, of those that can be read in one way."""
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
    """Who goes where; translations by name of prompt; sounds by path."""
    from sound import load

    recordings, dropped, listed = read_corpus(folder, spoken)
    target = translations(folder, written)
    kept: list[Recording] = []
    sounds = {}
    for recording in recordings:
        samples = load(recording.path, FS)
        if recording.name not in target:
            dropped[f"no usable text in {written}"] += 1
        elif len(samples) > sizes.max_seconds * FS:
            dropped[f"longer than {sizes.max_seconds:g} s"] += 1
        else:
            sounds[str(recording.path)] = samples
            kept.append(recording)
    if listed != len(kept) + dropped.total():
        raise AssertionError(f"{listed} prompts in, not as many out")
    print(f"{spoken}: {listed} prompts listed, {len(kept)} used")
    for reason, count in sorted(dropped.items()):
        print(f"{spoken}: {count} left out: {reason}")
    return split(spoken, kept, sizes, seed), target, sounds


def translate(utterance: Utterance, target: dict[str, str]) -> Utterance:
    """The same sound with the text in the other language."""
    text = " ".join(target[piece.name] for piece in utterance.pieces)
    return replace(utterance, text=text)


def drop_known(
    train: list[Utterance], held_out: list[Utterance], target: dict[str, str]
) -> list[Utterance]:
    """Training utterances whose translation is not that of a held-out one.

    Different prompts may have the same translation; those held out were kept apart by
    what is spoken.
    """
    known = {translate(u, target).text for u in held_out}
    kept = [u for u in train if translate(u, target).text not in known]
    print(f"train: {len(train) - len(kept)} dropped: translation is a held-out one")
    return kept


def prepare(
    folder: Path, pair: tuple[str, str], data: Path, sizes: Sizes, seed: int
) -> None:
    """Write the four sets below ``data``; the same input gives the same files."""
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
    """``en-fr``: two languages of :data:`LANGUAGES`."""
    spoken, _, written = text.partition("-")
    if spoken not in LANGUAGES or written not in LANGUAGES or spoken == written:
        raise UserError(
            f"--pair {text}: two different ones of {' '.join(LANGUAGES)} are needed, "
            "such as en-fr"
        )
    return spoken, written


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--pair", default="en-fr", help="language spoken, and written")
    add_options(p)
    args = p.parse_args()
    pair, sizes = parse_pair(args.pair), read_sizes(args)
    folder = args.corpus or fetch(*pair, args.downloads)
    prepare(folder, pair, args.data, sizes, args.seed)


if __name__ == "__main__":
    run(main)

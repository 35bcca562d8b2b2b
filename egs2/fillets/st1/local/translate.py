"""Prepare data/{train,valid,test_PAIR} for speech translation: lines and translations.

``text`` is the translation as it is written, ``text.spoken`` has the words spoken. Sets
are those of ../asr1: a level and a text, in any language, are in one set only.
"""

from __future__ import annotations

import argparse

from corpus import SPOKEN, WRITTEN, Recording
from prepare import add_options, data_folder, read_sets, report, require_lines

from espnet_mtla.bin.cli import run
from espnet_mtla.data.corpus import write_sets
from espnet_mtla.errors import UserError

PAIRS = ("nl-en", "cs-en")


def parse_pairs(values: list[str]) -> dict[str, str]:
    """Return the language written by language spoken.

    Raises:
        UserError: a pair is impossible, or a spoken language occurs twice.
    """
    pairs: dict[str, str] = {}
    for value in values:
        spoken, _, written = value.partition("-")
        if spoken not in SPOKEN or written not in WRITTEN or spoken == written:
            raise UserError(
                f"--pairs {value}: SPOKEN-WRITTEN needed, such as nl-en; spoken are "
                f"{' '.join(SPOKEN)}, written {' '.join(WRITTEN)}"
            )
        if spoken in pairs:
            raise UserError(
                f"--pairs {' '.join(values)}: {spoken} is spoken in two; a model has "
                "one translation of each language"
            )
        pairs[spoken] = written
    return pairs


def translation(recording: Recording, pairs: dict[str, str]) -> str:
    """Return the text in the other language; empty if there is none to learn."""
    text = recording.texts.get(pairs.get(recording.language, ""), "")
    return "" if "%" in text else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--pairs", nargs="+", default=PAIRS, help="languages spoken and written"
    )
    add_options(parser)
    args = parser.parse_args()
    pairs = parse_pairs(list(args.pairs))
    sets = read_sets(args)
    chosen = {name: sets[name] for name in ("train", "valid")}
    for spoken, written in pairs.items():
        chosen[f"test_{spoken}-{written}"] = [
            r for r in sets["test"] if r.language == spoken
        ]
    for name, recordings in chosen.items():
        spoken_here = [r for r in recordings if r.language in pairs]
        chosen[name] = [r for r in spoken_here if translation(r, pairs)]
        if missing := len(spoken_here) - len(chosen[name]):
            print(f"{name}: {missing} lines dropped: no translation")
    require_lines(chosen)
    report(chosen)
    write_sets(
        args.data,
        {
            name: data_folder(
                recordings,
                {
                    "text": {r.key: translation(r, pairs) for r in recordings},
                    "text.spoken": {r.key: r.words for r in recordings},
                },
            )
            for name, recordings in chosen.items()
        },
    )


if __name__ == "__main__":
    run(main)

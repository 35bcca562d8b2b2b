"""Prepare general English text for a language model: the quotations of ``fortunes``.

Writes the table data/lm_text, a sentence a line. The texts of the prompts are few; what
is wrong in their transcripts is mostly the spelling of words that never occur in them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from espnet_mtla.bin.cli import run
from espnet_mtla.data import debian as apt
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError

PACKAGES = ("fortunes", "fortunes-min")
# Files with drawings and foreign words.
NOT_PROSE = ("ascii-art", "translate-me")
LENGTHS = range(8, 121)
TEST_SETS = ("valid", "test_combinations", "test_sentences")


def quotations(folder: Path) -> Iterator[str]:
    """Yield the quotations below ``folder``, files in the order of their names.

    Raises:
        UserError: no file of quotations.
    """
    shares = (folder / "usr/share", folder)
    files = [file for at in shares for file in sorted(at.glob("games/fortunes/*.u8"))]
    if not files:
        raise UserError(
            f"{folder}: no games/fortunes/*.u8 in it, nor below its usr/share; unpack "
            f"the packages {' and '.join(PACKAGES)} into it"
        )
    for file in files:
        if file.stem not in NOT_PROSE:
            text = file.read_text(encoding="utf-8", errors="replace")
            yield from text.split("\n%\n")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text that consist of words alone, in lower case.

    >>> list(sentences('He said to us: "Sit down!" In 1984, nobody\\'s did.'))
    ['he said to us', 'sit down']
    """
    for part in re.split(r"(?<=[.!?;:])\s+|\n\s*\n|\s--\s|[()\[\]\"]", text):
        words = re.sub(r"[,.!?;:\-_/*`]", " ", part.lower().replace("\u2019", "'"))
        sentence = " ".join(words.split())
        if len(sentence) in LENGTHS and re.fullmatch(r"[a-z' ]+", sentence):
            yield sentence


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, help="unpacked packages, instead of a download"
    )
    parser.add_argument("--downloads", type=Path, default=Path("downloads"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    # ../asr1/local/prepare.py has run with the same options, and refuses unknown ones.
    args, _ = parser.parse_known_args()
    folder = args.corpus or apt.fetch_packages(
        PACKAGES,
        args.downloads / "fortunes",
        f"unpack the Debian packages {' and '.join(PACKAGES)} into a folder by other "
        "means and name it with --corpus",
    )
    texts = sorted({line for text in quotations(folder) for line in sentences(text)})
    tested = {
        text
        for name in TEST_SETS
        for text in read_table(args.data / name / "text").values()
    }
    kept = [text for text in texts if text not in tested]
    Random(0).shuffle(kept)
    table = {f"quote-{number:05d}": text for number, text in enumerate(kept)}
    write_table(args.data / "lm_text", table)
    print(
        f"{args.data}/lm_text: {len(kept)} sentences, {sum(map(len, kept))} characters"
        f"; {len(texts) - len(kept)} left out: in a test or validation set"
    )


if __name__ == "__main__":
    run(main)

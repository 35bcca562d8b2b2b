"""Prepare package descriptions and their one-line synopses: train, valid and test.

The distribution's translation index has both for each of its about 60,000 packages:
``text.source`` is the long description, ``text`` the synopsis. For some packages
training has a second pair: the source is ``lead:`` and the description, the text its
first words. With synopses alone a small model learns very late to copy.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from espnet_mtla.bin.cli import run
from espnet_mtla.data import debian as apt
from espnet_mtla.data.corpus import Tables, write_sets
from espnet_mtla.errors import UserError
from espnet_mtla.score.baseline import SENTENCE_END

INDEX = "*_i18n_Translation-en"
OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError)
# Packages that share a paragraph are one family. Ignored are short paragraphs ("This
# package contains the documentation.") and those of more than MAX_SHARED packages.
MIN_PARAGRAPH, MAX_SHARED = 60, 100
# Larger families are in training: one family should not be a tenth of a test set.
MAX_FAMILY = 20


@dataclass(frozen=True)
class Package:
    """Name, synopsis and paragraphs of the description of a package."""

    name: str
    synopsis: str
    paragraphs: tuple[str, ...]

    @property
    def description(self) -> str:
        return " ".join(self.paragraphs)


def fetch(downloads: Path) -> list[Path]:
    """Download the index files by apt, with its state below ``downloads``."""
    instead = "get a Translation-en file by other means and name it with --corpus"
    root = downloads / "apt"
    indexes = sorted(root.glob(f"state/lists/{INDEX}"))
    if not indexes:
        apt.update(root, instead, languages="en")
        indexes = sorted(root.glob(f"state/lists/{INDEX}"))
    if not indexes:
        raise UserError(f"{root}: apt's sources have no Translation-en: {instead}")
    return indexes


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file that may be compressed (.gz, .xz, .bz2)."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
            return stream.read().splitlines()
    except FileNotFoundError:
        raise UserError(f"--corpus {path}: no such file") from None
    except _BROKEN as error:
        raise UserError(f"{path}: broken ({error}); get the file again") from error


def read_packages(path: Path) -> Iterator[Package]:
    """Yield the packages of an index; raise UserError for another type of file."""
    block: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], 1):
        if line.strip():
            block.append(line)
            continue
        if block:
            yield parse(block, f"{path}, line {number - len(block)}")
        block = []


def parse(block: list[str], place: str) -> Package:
    """Parse one stanza: ``Package:``, ``Description-en:`` and its further lines.

    Args:
        block: lines of the stanza.
        place: file and line, for messages.
    """
    fields = {line.partition(":")[0]: line.partition(":")[2].strip() for line in block}
    if "Package" not in fields or "Description-en" not in fields:
        raise UserError(
            f"{place}: no Package and Description-en; is it Translation-en?"
        )
    start = next(i for i, line in enumerate(block) if line[:15] == "Description-en:")
    paragraphs, words = [], []
    for line in [*block[start + 1 :], " ."]:
        if line.strip() == ".":
            paragraphs.append(" ".join(words))
            words = []
        else:
            words += line.split()
    description = tuple(paragraph for paragraph in paragraphs if paragraph)
    synopsis = " ".join(fields["Description-en"].split())
    return Package(fields["Package"], synopsis, description)


def select(packages: Iterable[Package]) -> tuple[list[Package], Counter[str]]:
    """Return usable packages with unique texts, and counts of the others by reason."""
    kept: dict[tuple[str, str], Package] = {}
    names = set()
    dropped: Counter[str] = Counter()
    for package in packages:
        pair = (package.synopsis, package.description)
        if package.name in names:
            dropped["a second version of a package"] += 1
        elif not package.synopsis:
            dropped["empty synopsis"] += 1
        elif not package.paragraphs:
            dropped["empty description"] += 1
        elif not re.search("[a-z0-9]", package.synopsis.lower()):
            dropped["synopsis without a-z and 0-9"] += 1
        elif pair in kept:
            dropped["the same two texts as another"] += 1
        else:
            kept[pair] = package
        names.add(package.name)
    return list(kept.values()), dropped


def families(packages: list[Package]) -> list[list[Package]]:
    """Group packages that share a paragraph or a synopsis.

    Families are connected components: union-find over the texts.
    """
    users: dict[str, list[int]] = {}
    whole = {text for p in packages for text in (p.synopsis, p.description)}
    for index, package in enumerate(packages):
        texts = {package.synopsis, package.description}
        texts |= {text for text in package.paragraphs if len(text) >= MIN_PARAGRAPH}
        for text in texts:
            users.setdefault(text, []).append(index)
    parent = list(range(len(packages)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for text, members in users.items():
        if len(members) <= MAX_SHARED or text in whole:
            for index in members[1:]:
                parent[root(index)] = root(members[0])
    groups: dict[int, list[Package]] = {}
    for index, package in enumerate(packages):
        groups.setdefault(root(index), []).append(package)
    return list(groups.values())


def split(
    packages: list[Package], sizes: dict[str, int], seed: int
) -> dict[str, list[Package]]:
    """Divide families among the sets: ``test`` and ``valid`` first, then ``train``.

    ``test`` and ``valid`` have one package of a family, drawn at random; the rest of
    that family is not used.

    Args:
        packages: those to divide.
        sizes: packages per set; 0 for train means all that are left.
        seed: of all random choices.
    Raises:
        UserError: too few packages for a set.
    """
    groups = sorted(families(packages), key=lambda members: members[0].name)
    rng = Random(f"{seed} split")
    rng.shuffle(groups)
    sets: dict[str, list[Package]] = {"train": [], "valid": [], "test": []}
    for members in groups:
        short = (n for n in ("test", "valid") if len(sets[n]) < sizes[n])
        name = next(short, "train") if len(members) <= MAX_FAMILY else "train"
        sets[name] += members if name == "train" else [rng.choice(members)]
    for name, size in sizes.items():
        if len(sets[name]) < max(1, size):
            raise UserError(
                f"--num_{name} {size}: only {len(sets[name])} packages are left for it"
            )
    if sizes["train"]:
        sets["train"] = rng.sample(sets["train"], sizes["train"])
    return sets


def check_apart(sets: dict[str, list[Package]]) -> None:
    """Raise AssertionError if a held-out text is in training, too."""
    known = {text for p in sets["train"] for text in (p.synopsis, p.description)}
    for name in ("valid", "test"):
        for package in sets[name]:
            if known & {package.synopsis, package.description}:
                raise AssertionError(f"{package.name} of {name} is in training, too")


def leads(packages: list[Package], words: int) -> dict[str, tuple[str, str]]:
    """Return {key: (source, text)} of the pairs that train copying.

    The text is the first sentence of the description, cut to ``words`` words.
    """
    pairs = {}
    for package in packages:
        sentence = SENTENCE_END.split(package.description)[0]
        lead = " ".join(sentence.split()[:words])
        pairs[f"{package.name}~lead"] = f"lead: {package.description}", lead
    return pairs


def prepare(
    paths: list[Path],
    data: Path,
    sizes: dict[str, int],
    seed: int,
    lead_words: int,
    lead_every: int = 1,
) -> None:
    """Write train, valid and test below ``data``.

    Args:
        paths: index files.
        data: parent of the folders to write.
        sizes: packages per set.
        seed: of all random choices.
        lead_words: length of the texts that train copying; 0 for no such pairs.
        lead_every: one package of so many has such a pair.
    """
    packages = [package for path in paths for package in read_packages(path)]
    kept, dropped = select(packages)
    if len(packages) != len(kept) + dropped.total():
        raise AssertionError(f"{len(packages)} packages read, not as many counted")
    print(f"{len(packages)} packages listed, {len(kept)} used")
    for reason, count in sorted(dropped.items()):
        print(f"{count} dropped: {reason}")
    sets = split(kept, sizes, seed)
    check_apart(sets)
    written: dict[str, Tables] = {}
    print(f"{'set':<8}{'packages':>10}{'pairs':>10}{'words':>10}{'of synopsis':>13}")
    for name, members in sets.items():
        pairs = {p.name: (p.description, p.synopsis) for p in members}
        if name == "train" and lead_words:
            pairs |= leads(members[::lead_every], lead_words)
        written[name] = {
            table: {key: pair[side] for key, pair in pairs.items()}
            for side, table in enumerate(("text.source", "text"))
        }
        words = sum(len(p.description.split()) for p in members) / len(members)
        short = sum(len(p.synopsis.split()) for p in members) / len(members)
        print(
            f"{name:<8}{len(members):>10}{len(pairs):>10}{words:>10.1f}{short:>13.1f}"
        )
    write_sets(data, written)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options of stage 1."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        help="Translation-en files (.gz, .xz, .bz2 or plain); default: from apt",
    )
    p.add_argument("--downloads", type=Path, default=Path("downloads"), help="for apt")
    p.add_argument("--data", type=Path, default=Path("data"), help="output folder")
    p.add_argument("--num_train", type=int, default=0, help="packages; 0 for all")
    p.add_argument("--num_valid", type=int, default=500, help="packages")
    p.add_argument("--num_test", type=int, default=1000, help="packages")
    p.add_argument(
        "--lead_words",
        type=int,
        default=16,
        help="length of the texts that train copying, in words; 0 for no such pairs",
    )
    p.add_argument(
        "--lead_every",
        type=int,
        default=3,
        help="one package of so many has such a pair",
    )
    p.add_argument("--seed", type=int, default=1, help="of every random choice")
    return p


def main() -> None:
    args = parser().parse_args()
    sizes = {name: getattr(args, f"num_{name}") for name in ("test", "valid", "train")}
    for name, size in sizes.items():
        if size < (0 if name == "train" else 1):
            raise UserError(f"--num_{name} {size}: too few")
    if args.lead_words < 0:
        raise UserError(f"--lead_words {args.lead_words}: less than 0")
    if args.lead_every < 1:
        raise UserError(f"--lead_every {args.lead_every}: less than 1")
    paths = args.corpus or fetch(args.downloads)
    prepare(paths, args.data, sizes, args.seed, args.lead_words, args.lead_every)


if __name__ == "__main__":
    run(main)

"""Prepare XSum, articles and their one-sentence summaries: train, validation, test.

Rows have ``document``, ``summary`` and ``id``, as on the datasets hub. A local copy may
be jsonl, parquet, the arrow folder that ``save_to_disk`` writes, or the original files
(``articles.py``). Without one the hub's parquet files are downloaded.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from articles import find_articles, read_articles, read_split

from espnet_mtla.bin.cli import run
from espnet_mtla.data.corpus import Tables, corpus_parser, read_jsonl, write_sets
from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError

# Held-out sets first: an article that occurs twice belongs to the first set.
SETS = {
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train",),
}
"""Names that files of each set, or their folder, may have."""
FORMATS = (".arrow", ".parquet", ".jsonl", ".json")
FIELDS = ("id", "document", "summary")
HUB = "EdinburghNLP/xsum"

Rows = Iterator[tuple[str, str, str]]
"""Id, document and summary of each article of a set."""


def prepare(corpus: Path, data: Path, drop_bad: bool = False) -> None:
    """Write ``data/SET`` for each set, all or none: ``text`` and ``text.source``.

    ``text`` has the summaries, ``text.source`` the articles.

    Args:
        corpus: a local copy.
        data: parent of the folders to write.
        drop_bad: drop unusable rows instead of raising.
    Raises:
        UserError: a file or row is unusable; the message names it.
    """
    if not corpus.is_dir():
        raise UserError(f"--corpus {corpus}: no such folder")
    articles = find_articles(corpus)
    opened = (
        open_articles(corpus, articles, drop_bad)
        if articles
        else open_files(corpus, drop_bad)
    )
    seen: dict[str, str] = {}
    sets = {
        name: read_set(rows, counter, seen) for name, (rows, counter) in opened.items()
    }
    write_sets(data, sets)


def open_files(corpus: Path, drop_bad: bool) -> dict[str, tuple[Rows, DropCounter]]:
    """Return an iterator over the rows of each set, and their counter."""
    opened = {}
    for name, paths in find_files(corpus).items():
        source = paths[0].parent if len(paths) > 1 else paths[0]
        rows = itertools.chain.from_iterable(map(read_rows, paths))
        opened[name] = rows, DropCounter(name, "articles", drop_bad, source)
    return opened


def open_articles(
    corpus: Path, files: dict[str, Path], drop_bad: bool
) -> dict[str, tuple[Rows, DropCounter]]:
    """Do as :func:`open_files` for original files; count those in no set."""
    opened = {}
    split = read_split(corpus, list(SETS))
    for name, ids in split.items():
        counter = DropCounter(name, "articles", drop_bad, corpus)
        opened[name] = read_articles(ids, files, counter), counter
    others = files.keys() - set().union(*split.values())
    if others:
        print(f"dropped: {len(others):,} articles in no set, such as {min(others)}")
    return opened


def read_set(rows: Rows, counter: DropCounter, seen: dict[str, str]) -> Tables:
    """Read a set; count the rows that are dropped, with the reason.

    Args:
        rows: id, document and summary.
        counter: of the set.
        seen: {id: set} of earlier rows; ids of this set are added.
    Returns:
        the tables ``text.source`` and ``text``.
    """
    documents: dict[str, str] = {}
    summaries: dict[str, str] = {}
    for key, document, summary in rows:
        # A table has one line per article: paragraphs are joined.
        document, summary = (" ".join(t.split()) for t in (document, summary))
        if len(key.split()) != 1:
            counter.refuse("without an id", repr(summary[:60]))
        elif key in seen:
            counter.refuse("with an id that occurs twice", f"{key} (in {seen[key]})")
        elif not document:
            counter.drop("with an empty document", key)
        elif not summary:
            counter.drop("with an empty summary", key)
        else:
            seen[key] = counter.name
            documents[key], summaries[key] = document, summary
            counter.keep()
    counter.close()
    return {"text.source": documents, "text": summaries}


def find_files(corpus: Path) -> dict[str, list[Path]]:
    """Return the files of each set, all in one format.

    Raises:
        UserError: a set has no file in the best format.
    """
    every = sorted(path for path in corpus.rglob("*") if path.suffix in FORMATS)
    missing = list(SETS)
    for ending in FORMATS:
        some = [path for path in every if path.suffix == ending]
        files = {
            name: [path for path in some if belongs(path.relative_to(corpus), names)]
            for name, names in SETS.items()
        }
        if all(files.values()):
            return files
        missing = min(missing, [name for name in SETS if not files[name]], key=len)
    raise UserError(
        f"{corpus}: no files of {', '.join(missing)}; all sets are needed in one format"
        f" of {', '.join(FORMATS)}, such as train.jsonl or train-00000-of-00001.parquet"
        ", or else ID.summary files and the authors' split"
    )


def belongs(path: Path, names: tuple[str, ...]) -> bool:
    """Return whether a file belongs to the set that has one of ``names``.

    The last folder named like a set decides, otherwise a word of the file's name.
    """
    known = {name for aliases in SETS.values() for name in aliases}
    # save_to_disk and datasets.map write state and cache files beside the data.
    if path.name in ("state.json", "dataset_info.json", "dataset_dict.json"):
        return False
    if path.name.startswith((".", "cache-")):
        return False
    folders = [part for part in path.parts[:-1] if part in known]
    if folders:
        return folders[-1] in names
    words = [word for word in re.split(r"[-_.]", path.stem) if word in known]
    return bool(words) and words[-1] in names


def read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield id, document and summary of each row; raise UserError for bad rows."""
    read = read_jsonl if path.suffix in (".jsonl", ".json") else read_arrow
    for number, row in read(path):
        for name in FIELDS:
            if name not in row:
                raise UserError(f"{path}: row {number} has no {name!r}: {list(row)}")
            # Some copies have numbers as ids.
            if not isinstance(row[name], (str, int, type(None))):
                raise UserError(f"{path}: row {number}: {name!r} is not a text")
        yield tuple("" if row[name] is None else str(row[name]) for name in FIELDS)


def read_arrow(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield number and row of a parquet file or of an arrow stream of ``datasets``."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(1000)
        else:
            batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
        yield from enumerate((row for b in batches for row in b.to_pylist()), 1)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: broken ({said}); get the file again") from None


def fetch(hub: str) -> Path:
    """Download the data set's parquet files from the hub; return their folder.

    Files in the hub's cache are not downloaded again.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(
            hub,
            repo_type="dataset",
            # The hub converts every data set to parquet on this branch.
            revision="refs/convert/parquet",
            allow_patterns="*.parquet",
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{huggingface_hub.constants.ENDPOINT}/datasets/{hub}: cannot be fetched "
            f"({type(error).__name__}: {said}); name a local copy with --corpus"
        ) from None
    return Path(folder)


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder of a local copy; default: download from the hub",
        drop_bad="drop and count rows without an id or with one that occurs twice",
        required=False,
    )
    parser.add_argument("--hub", default=HUB, help="data set on the hub")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    prepare(args.corpus or fetch(args.hub), args.data, args.drop_bad)


if __name__ == "__main__":
    run(main)

"""XSum to data folders of texts: train, validation and test, articles and one sentence.

Rows have ``document``, ``summary`` and ``id``, as on the datasets hub. A local copy may
be jsonl, parquet, the arrow folder that ``save_to_disk`` writes, or what the authors
give away (``articles.py``); without one the parquet files of the hub are fetched.
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

# Held-out sets first: what occurs twice is then theirs.
SETS = {
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train",),
}
"""Each set, and what its files or their folder may be called."""
FORMATS = (".arrow", ".parquet", ".jsonl", ".json")
FIELDS = ("id", "document", "summary")
HUB = "EdinburghNLP/xsum"

Rows = Iterator[tuple[str, str, str]]
"""Id, document and summary of each article of a set."""


def prepare(corpus: Path, data: Path, drop_bad: bool = False) -> None:
    """Write ``data/SET`` for each set: ``text``, the summaries, and ``text.source``.

    Nothing is written before all is read. Raises UserError naming the file or row that
    cannot be used.
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
    """Rows of each set, yet to be read, and what counts them."""
    opened = {}
    for name, paths in find_files(corpus).items():
        source = paths[0].parent if len(paths) > 1 else paths[0]
        rows = itertools.chain.from_iterable(map(read_rows, paths))
        opened[name] = rows, DropCounter(name, "articles", drop_bad, source)
    return opened


def open_articles(
    corpus: Path, files: dict[str, Path], drop_bad: bool
) -> dict[str, tuple[Rows, DropCounter]]:
    """The same of single articles; those that are in no set are counted here."""
    opened = {}
    split = read_split(corpus, list(SETS))
    for name, ids in split.items():
        counter = DropCounter(name, "articles", drop_bad, corpus)
        opened[name] = read_articles(ids, files, counter), counter
    others = files.keys() - set().union(*split.values())
    if others:
        print(f"left out: {len(others):,} articles in no set, such as {min(others)}")
    return opened


def read_set(rows: Rows, counter: DropCounter, seen: dict[str, str]) -> Tables:
    """Articles and summaries by id; each row is kept or counted.

    ``seen`` maps an id to the set that has it, and is added to.
    """
    documents: dict[str, str] = {}
    summaries: dict[str, str] = {}
    for key, document, summary in rows:
        # An article is several paragraphs; a line holds them all.
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
    """The files of each set, all in one format; UserError if a set has none."""
    every = sorted(path for path in corpus.rglob("*") if path.suffix in FORMATS)
    missing = list(SETS)
    for ending in FORMATS:
        some = [path for path in every if path.suffix == ending]
        found = {
            name: [path for path in some if belongs(path.relative_to(corpus), names)]
            for name, names in SETS.items()
        }
        if all(found.values()):
            return found
        missing = min(missing, [name for name in SETS if not found[name]], key=len)
    raise UserError(
        f"{corpus}: no files of {', '.join(missing)}; all sets are needed in one format"
        f" of {', '.join(FORMATS)}, such as train.jsonl or train-00000-of-00001.parquet"
        ", or else ID.summary files and the authors' split"
    )


def belongs(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a file is of the set that goes by ``names``.

    The last folder with the name of a set counts, else a word of the file's own name.
    """
    known = {name for aliases in SETS.values() for name in aliases}
    # Beside the data lie the states of save_to_disk and the caches of its functions.
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
    """Id, document and summary of each row; UserError for another kind of file."""
    read = read_jsonl if path.suffix in (".jsonl", ".json") else read_arrow
    for number, row in read(path):
        for name in FIELDS:
            if name not in row:
                raise UserError(f"{path}: row {number} has no {name!r}: {list(row)}")
            # An id may be a number.
            if not isinstance(row[name], (str, int, type(None))):
                raise UserError(f"{path}: row {number}: {name!r} is no text")
        yield tuple("" if row[name] is None else str(row[name]) for name in FIELDS)


def read_arrow(path: Path) -> Iterator[tuple[int, dict]]:
    """Number and row of a parquet file, or of a stream as ``datasets`` writes it."""
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
    """Download the data set's parquet files from the hub; the folder they lie in.

    What is in the hub's own cache is not downloaded again.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = huggingface_hub.snapshot_download(
            hub,
            repo_type="dataset",
            # Where the hub keeps every data set as parquet, whatever it came as.
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
        corpus="folder of a local copy; without it the hub is asked",
        drop_bad="leave out rows without an id or with one that occurs twice",
        required=False,
    )
    parser.add_argument("--hub", default=HUB, help="data set on the hub")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    prepare(args.corpus or fetch(args.hub), args.data, args.drop_bad)


if __name__ == "__main__":
    run(main)

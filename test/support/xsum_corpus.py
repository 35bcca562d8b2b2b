"""A made-up XSum in the forms in which it is kept: rows as on the hub, or articles."""

from __future__ import annotations

import json
from pathlib import Path

PLACES = ("Leeds", "Cardiff", "Perth", "Derry")
EVENTS = ("a bridge was closed", "a school opened", "the river rose", "a cat was found")
SIZES = {"train": 24, "validation": 4, "test": 4}


def make_rows(split: str, count: int) -> list[dict[str, str]]:
    """Articles of three sentences in two paragraphs; the summary is the middle one."""
    rows = []
    for n in range(count):
        # Split and number make each article differ from all others.
        place, event = PLACES[n % 4], EVENTS[n // 4 % 4]
        summary = f"In {place} {event}."
        document = f"It was day {n} of the {split} week.\n{summary}\nPeople talked."
        number = f"{list(SIZES).index(split) + 1}{n:07d}"
        rows.append({"document": document, "summary": summary, "id": number})
    return rows


def write_xsum(corpus: Path, form: str, **sizes: int) -> Path:
    """All splits below ``corpus`` as ``jsonl``, ``parquet`` or ``arrow``."""
    for split, count in {**SIZES, **sizes}.items():
        write_split(corpus, form, split, make_rows(split, count))
    return corpus


def write_split(corpus: Path, form: str, split: str, rows: list[dict]) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    if form == "jsonl":
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (corpus / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        return
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(rows)
    if form == "parquet":
        folder = corpus / "default" / split
        folder.mkdir(parents=True)
        pyarrow.parquet.write_table(table, folder / "0000.parquet")
        return
    # As `save_to_disk` leaves it: a stream, its state, and a cache of some function.
    folder = corpus / split
    folder.mkdir(parents=True)
    half = len(rows) // 2
    for part, piece in enumerate((table[:half], table[half:])):
        name = f"data-{part:05d}-of-00002.arrow"
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(piece)
    (folder / "cache-0f1e.arrow").write_bytes(b"not for us")
    (folder / "state.json").write_text(json.dumps({"_split": split}))
    (folder / "dataset_info.json").write_text("{}")
    (corpus / "dataset_dict.json").write_text(json.dumps({"splits": list(SIZES)}))


def write_articles(corpus: Path, ending: str = ".summary") -> Path:
    """All splits as the authors give them away; ``.data`` is of their scripts."""
    mark, first = ("SN", "FIRST-SENTENCE")
    if ending == ".data":
        mark, first = ("XSUM", "INTRODUCTION")
    folder = corpus / "bbc-summary-data"
    folder.mkdir(parents=True)
    split = {}
    for name, count in SIZES.items():
        rows = make_rows(name, count)
        split[name] = [row["id"] for row in rows]
        for row in rows:
            parts = {
                "URL": f"http://news.example/{row['id']}",
                "TITLE": "A title",
                first: row["summary"],
                "RESTBODY": f"Share this with\nEmail\n{row['document']}",
            }
            text = "\n\n".join(f"[{mark}]{k}[{mark}]\n{v}" for k, v in parts.items())
            path = folder / f"{row['id']}{ending}"
            path.write_text(f"{text}\n", encoding="utf-8")
    path = corpus / "XSum-TRAINING-DEV-TEST-SPLIT-90-5-5.json"
    path.write_text(json.dumps(split), encoding="utf-8")
    return corpus

"""A made-up SLURP in the published layout, around real lines of its devel.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from test.support.corpus_sound import write_sound

SAMPLE = Path(__file__).parents[1] / "fixtures" / "slurp_devel_sample.jsonl"
SPEAKERS = ("FO-413", "MO-222", "UNK-195")
"""Recordings take turns, train first, in the order in which the lists have them."""


def write_slurp(
    corpus: Path,
    sentences: int = 12,
    recordings: int = 2,
    copies: int = 1,
    seconds: float = 1.2,
) -> Path:
    """``dataset/slurp`` and ``audio`` below ``corpus``; returns where the lists are.

    Each set has the first ``sentences`` lines of :data:`SAMPLE`, each with at most so
    many ``recordings``, train ``copies`` times; synthetic ones are one a sentence.
    Devel has the names of the sample, the others put a word before them.
    """
    lists = corpus / "dataset" / "slurp"
    lists.mkdir(parents=True)
    real = read_lines(SAMPLE)[:sentences]
    metadata: dict[str, dict] = {}
    seed = 0
    for name in ("train", "devel", "test", "train_synthetic"):
        rows = []
        for copy in range(copies if name == "train" else 1):
            for row in real:
                synthetic = name == "train_synthetic"
                kind = "slurp_synth" if synthetic else "slurp_real"
                most = 1 if synthetic else recordings
                mark = "" if name == "devel" else f"{name}{copy}-"
                takes = [
                    {**take, "file": f"{mark}{take['file']}"}
                    for take in row["recordings"][:most]
                ]
                for take in takes:
                    path = corpus / "audio" / kind / take["file"]
                    write_sound(path, seconds, seed)
                    if not synthetic:
                        about = metadata.setdefault(str(row["slurp_id"]), {})
                        who = {"usrid": SPEAKERS[seed % 3], "status": "correct"}
                        about.setdefault("recordings", {})[take["file"]] = who
                    seed += 1
                rows.append({**row, "recordings": takes})
        write_lines(lists / f"{name}.jsonl", rows)
    (lists / "metadata.json").write_text(json.dumps(metadata))
    return lists


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(row) for row in path.read_text().splitlines()]

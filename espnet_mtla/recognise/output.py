"""Hypotheses on disk: ESPnet's ``Nbest_recog`` folders and a JSON line an utterance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.data.table import write_table
from espnet_mtla.recognise.recogniser import Recognised
from espnet_mtla.search.beam import Hypothesis

if TYPE_CHECKING:
    from espnet_mtla.model.base import Unit

MARK = "efficiency.json"
"""Written last: a folder that holds it is complete."""
LOOP_TIMES, LOOP_TOKENS = 4, 10
"""A loop: a block of tokens so many times in succession, over so many tokens."""


def write_output(
    folder: Path,
    recognised: Sequence[Recognised],
    token_list: Sequence[str],
    to_text: Callable[[Sequence[str]], str],
    efficiency: dict[str, object],
) -> None:
    """Write the results of one data set; ``efficiency.json`` comes last.

    Results of an earlier run are removed first; other files (logs, scores) are kept.

    Args:
        folder: where to write; created if needed.
        recognised: results in any order.
        token_list: the tokens by id.
        to_text: turns tokens into text.
        efficiency: content of ``efficiency.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).unlink(missing_ok=True)
    for old in folder.glob("*best_recog"):
        shutil.rmtree(old)
    ordered = sorted(recognised, key=lambda result: result.key)
    for place in range(max(len(result.nbest) for result in ordered)):
        ranked = {r.key: r.nbest[place] for r in ordered if place < len(r.nbest)}
        with atomic_folder(folder / f"{place + 1}best_recog") as temporary:
            _write_tables(temporary, ranked, token_list, to_text)
    with atomic_file(folder / "utterances.jsonl") as stream:
        for result in ordered:
            stream.write(
                json.dumps(utterance_record(result), ensure_ascii=False) + "\n"
            )
    with atomic_file(folder / MARK) as stream:
        stream.write(json.dumps(efficiency, indent=2) + "\n")


def _write_tables(
    folder: Path,
    hypotheses: dict[str, Hypothesis],
    token_list: Sequence[str],
    to_text: Callable[[Sequence[str]], str],
) -> None:
    tokens = {k: [token_list[i] for i in h.tokens] for k, h in hypotheses.items()}
    ids = {k: " ".join(map(str, h.tokens)) for k, h in hypotheses.items()}
    # A line break, which the tokens of a language model can spell, ends a table's line.
    texts = {key: " ".join(to_text(row).split()) for key, row in tokens.items()}
    write_table(folder / "text", texts)
    write_table(folder / "token", {k: " ".join(row) for k, row in tokens.items()})
    write_table(folder / "token_int", ids)
    write_table(folder / "score", {k: f"{h.score:.6f}" for k, h in hypotheses.items()})


class UtteranceRecord(TypedDict):
    """A line of ``utterances.jsonl``.

    ``audio_seconds`` counts tokens of the source text if ``unit`` is ``token``.
    """

    key: str
    unit: Unit
    audio_seconds: float
    encoder_frames: int
    prompt_frames: int
    tokens: int
    score: float
    decode_seconds: float
    flags: dict[str, bool]
    """Signs of a bad result."""


def utterance_record(result: Recognised) -> UtteranceRecord:
    """Return the line of an utterance in ``utterances.jsonl``."""
    best = result.nbest[0]
    return {
        "key": result.key,
        "unit": result.unit,
        "audio_seconds": round(result.audio_seconds, 4),
        "encoder_frames": result.encoder_frames,
        "prompt_frames": result.prompt_frames,
        "tokens": len(best.tokens),
        "score": best.score,
        "decode_seconds": round(result.decode_seconds, 6),
        "flags": {
            "repetition": has_loop(best.tokens),
            "hit_length_limit": best.hit_length_limit,
            "empty": not best.tokens,
        },
    }


def has_loop(tokens: Sequence[int]) -> bool:
    """Return True if a block of tokens repeats itself as no speaker does.

    It repeats at least :data:`LOOP_TIMES` times in succession and over at least
    :data:`LOOP_TOKENS` tokens, so that a digit said four times is no loop.

    >>> has_loop([1, 2, 3] * 4), has_loop([7] * 4)
    (True, False)
    """
    for period in range(1, len(tokens) // LOOP_TIMES + 1):
        needed = max(LOOP_TIMES * period, LOOP_TOKENS) - period
        run = 0
        for now, before in zip(tokens[period:], tokens, strict=False):
            run = run + 1 if now == before else 0
            if run >= needed:
                return True
    return False

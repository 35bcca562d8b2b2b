"""Experiment folders as decoding and scoring leave them, with figures made up."""

from __future__ import annotations

import json
from pathlib import Path

# Errors of 40 utterances with 10 words each, and (wall seconds, cache bytes a second).
SYSTEMS = {
    "mha": ([1, 0, 0, 1] * 10, 20.0, 460800.0),
    "mtla_s2": ([0, 1, 0, 1] * 10, 10.0, 32000.0),
    "mtla_s4": ([2, 1, 1, 2] * 10, 8.0, 16000.0),
}


def make_experiment(
    root: Path,
    name: str,
    system: str,
    decodes: tuple[str, ...] = ("beam10",),
    sets: tuple[str, ...] = ("test",),
    **changed,
) -> Path:
    """An experiment folder as decoding and scoring leave it."""
    errors, wall, cache = SYSTEMS[system]
    efficiency = {
        "utterances": 40,
        "audio_seconds": 100.0,
        "wall_seconds": wall,
        "encoder_seconds": 4.0,
        "search_seconds": wall - 4.0,
        "rtf": wall / 100,
        "tokens": 500,
        "tokens_per_second": 500 / wall,
        "cache_bytes_formula": 1000,
        "cache_bytes_measured": 1000,
        "cache_bytes_per_audio_second": cache,
        "peak_memory_bytes": 512_000_000,
        "parameters": 12_345_678,
        "attention": system.split("_")[0],
        "beam_size": 10,
        "ctc_weight": 0.0,
        "device": "cpu",
        "versions": {},
        **changed,
    }
    score = {
        "metric": "wer",
        "utterances": 40,
        "ref_words": 400,
        "sub": sum(errors) - 3,
        "del": 2,
        "ins": 1,
        "errors": sum(errors),
        "wer": sum(errors) / 4,
        "ci95": [sum(errors) / 4 - 1.5, sum(errors) / 4 + 1.5],
        "sentence_errors": sum(map(bool, errors)),
    }
    for folder in (root / name / f"decode_{d}" / s for d in decodes for s in sets):
        (folder / "score_wer").mkdir(parents=True)
        (folder / "efficiency.json").write_text(json.dumps(efficiency))
        (folder / "score_wer/score.json").write_text(json.dumps(score))
        lines = [
            json.dumps({"key": f"u{i:02d}", "errors": count, "ref_words": 10})
            for i, count in enumerate(errors)
        ]
        (folder / "score_wer/utterances.jsonl").write_text("\n".join(lines) + "\n")
    return root / name


TERMINAL = """\
test, decoded with beam10

attention  params          WER % [95 %]  sub/del/ins        vs mha  time s  speed-up\
  cache/s  smaller    peak    RTF
---------  ------  --------------------  -----------  ------------  ------  --------\
  -------  -------  ------  -----
mha        12.3 M     5.00 [3.50, 6.50]       17/2/1             -    20.0     1.00x\
   461 kB    1.00x  512 MB  0.200
mtla_s2    12.3 M     5.00 [3.50, 6.50]       17/2/1    +0.00 same    10.0     2.00x\
    32 kB   14.40x  512 MB  0.100
mtla_s4    12.3 M  15.00 [13.50, 16.50]       57/2/1  +10.00 worse     8.0     2.50x\
    16 kB   28.80x  512 MB  0.080

40 utterances, 400 words of reference, 100 s of audio; device cpu; beam size 10;\
 ctc weight 0.0.
"""

"""The goals of speed and memory as runs of the benchmark: what ``all`` measures.

Each line is a run of one part, chosen so that the whole table takes about ten minutes
on an H100, compilation included, and about as long on two CPU cores.
"""

from __future__ import annotations

RUNS: dict[str, dict[str, str]] = {
    "cuda": {
        "train": "train --dtype bfloat16 --tokens 1024 2048 4096 8192 16384"
        " --attention mha mla mtla_s2 mtla_s3 mtla_s4 --max_seconds 8",
        "train_kernels": "train --dtype bfloat16 --tokens 8192 --attention mtla_s2"
        " --kernels auto cuda_cudnn cuda_efficient flex --peer_tokens 0"
        " --max_seconds 8",
        # The paper's setting: beam 50, a copy of the prompt for each hypothesis.
        "decode_paper": "decode --dtype bfloat16 --attention mtla_s2 mtla_s3 mla mha"
        " --prompt 500 --beam 50 --copy_prompt --max_seconds 60 --rounds 5",
        "decode_shared": "decode --dtype bfloat16 --attention mtla_s2 mtla_s3 mla mha"
        " --prompt 500 --beam 50 --max_seconds 60 --rounds 5",
        "decode_eager": "decode --dtype bfloat16 --attention mtla_s3 --prompt 500"
        " --beam 50 --cuda_graphs never --no_reference --max_seconds 20 --rounds 5",
        "decode_beam_20_and_1": "decode --dtype bfloat16 --attention mtla_s2 mha"
        " --prompt 1000 --beam 1 20 --no_reference --max_seconds 20 --rounds 5",
        "kernel": "kernel --dtype bfloat16",
    },
    "cpu": {
        "train": "train --tokens 2048 4096 --attention mha mla mtla_s2 mtla_s4"
        " --rounds 3 --warmup 1 --peer_tokens 2048 --max_seconds 60",
        "decode": "decode --prompt 250 1000 --attention mtla_s2 mha --rounds 1"
        " --steps 20 --max_seconds 60",
        "decode_beam_20_and_1": "decode --attention mtla_s2 --prompt 1000"
        " --beam 1 20 --no_reference --rounds 3",
        "kernel": "kernel",
    },
}
"""Kind of device, name of the result's files, and the run."""

RUN_SECONDS = {"cuda": 300, "cpu": 1800}
"""A run that takes longer is stopped, so that the others have their turn."""


def runs_for(kind: str, shared: list[str], only: list[str]) -> dict[str, list[str]]:
    """Arguments of each run, with what ``all`` was given for all of them.

    Args:
        kind: ``cuda`` or ``cpu``.
        shared: arguments that every run gets, such as ``--device``.
        only: names; empty means all.
    """
    chosen = {n: line for n, line in RUNS[kind].items() if not only or n in only}
    return {
        name: [*line.split(), "--name", f"{kind}_{name}", *shared]
        for name, line in chosen.items()
    }

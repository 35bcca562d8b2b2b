"""The runs of ``benchmark all``: one for each goal of speed and memory.

Each line is the command line of one part. The sizes are chosen so that all runs take
about ten minutes on an H100, compilation included, and about as long on two CPU cores.
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
"""Command lines, by device type and by the name of the result's files."""

RUN_SECONDS = {"cuda": 300, "cpu": 1800}
"""Time limit of a run, by device type; the other runs follow."""


def runs_for(
    device_type: str, shared: list[str], only: list[str]
) -> dict[str, list[str]]:
    """Return the arguments of each run, by its name.

    Args:
        device_type: ``cuda`` or ``cpu``.
        shared: arguments added to every run, such as ``--device``.
        only: names of the runs; empty: all.
    """
    runs = RUNS[device_type]
    selected = {name: runs[name] for name in runs if not only or name in only}
    return {
        name: [*line.split(), "--name", f"{device_type}_{name}", *shared]
        for name, line in selected.items()
    }

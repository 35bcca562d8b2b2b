"""Devices that are not there, ranks that are not given, and ranks that have ended."""

from __future__ import annotations

import socket
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.task.devices import check_devices, lost_peer

PLAIN = {
    **{"ngpu": 0, "dist_launcher": None, "dist_world_size": None, "dist_rank": None},
    **{"dist_init_method": "env://", "dist_master_addr": None},
    **{"dist_master_port": None, "dist_backend": "nccl"},
}
TWO = {"dist_world_size": 2, "dist_rank": 0, "dist_backend": "gloo"}
PLACE = {"dist_master_addr": "here", "dist_master_port": 1}
RANKS = """
import os, sys
from argparse import Namespace
from datetime import timedelta
import torch.distributed as dist
import torch
from espnet_mtla.task.devices import lost_peer
rank = int(sys.argv[1])
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
dist.barrier()
if rank == 1:
    os._exit(9)
try:
    for _ in range(100):
        dist.all_reduce(torch.ones(1000))
except RuntimeError as error:
    print(lost_peer(error, Namespace(dist_rank=rank)))
"""


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of a distributed run, and no GPU."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngpu": 1}, "--ngpu 1: torch sees no CUDA device here; use --ngpu 0"),
        ({**TWO, "dist_rank": None}, "--dist_rank: None given, the number of this"),
        ({**TWO, "dist_rank": 2}, "--dist_rank: 2 given, .* from 0 to 1, is needed"),
        (TWO, "--dist_master_addr: needed with --dist_world_size 2"),
        ({**TWO, "dist_master_addr": "here"}, "--dist_master_port: needed with"),
        ({**TWO, **PLACE, "dist_backend": "nccl"}, "nccl: for GPUs; on CPUs use gloo"),
        (
            {"dist_launcher": "slurm"},
            "--dist_launcher slurm: start the command by srun",
        ),
    ],
)
def test_what_cannot_run_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_devices(Namespace(**{**PLAIN, **options}))


def test_what_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    check_devices(Namespace(**PLAIN))
    check_devices(Namespace(**{**PLAIN, **TWO, **PLACE}))
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "7")
    check_devices(Namespace(**{**PLAIN, "dist_backend": "gloo"}))
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="RANK=first: a number is needed"):
        check_devices(Namespace(**{**PLAIN, "dist_backend": "gloo"}))


def test_a_rank_that_has_ended_is_said_by_the_other() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, rank, port], stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    output = ranks[0].communicate(timeout=300)[0]
    ranks[1].wait()
    assert output.startswith("rank 0: another process of the training has ended")
    assert output.count("\n") == 1


def test_other_errors_are_not_of_a_rank() -> None:
    assert lost_peer(RuntimeError("shapes differ"), Namespace(dist_rank=0)) is None

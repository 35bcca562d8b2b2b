"""Check the devices and ranks of a training before espnet2 uses them."""

from __future__ import annotations

import os
from argparse import Namespace

import torch

from espnet_mtla.errors import UserError

_LOST_PEER = ("gloo", "nccl", "closed by peer", "reset by peer", "connection refused")


def check_devices(args: Namespace) -> None:
    """Refuse GPUs that are not there, and ranks that are incomplete.

    Raises:
        UserError: names the option.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if args.ngpu > available:
        sees = f"{available} CUDA devices" if available else "no CUDA device"
        raise UserError(
            f"--ngpu {args.ngpu}: torch sees {sees} here; use --ngpu {available}"
        )
    if args.dist_launcher == "slurm":
        if "SLURM_STEP_NODELIST" not in os.environ:
            raise UserError("--dist_launcher slurm: start the command by srun")
        return
    world = _number(args, "dist_world_size", "WORLD_SIZE")
    if world is None or world < 2:
        return
    rank = _number(args, "dist_rank", "RANK")
    if rank is None or not 0 <= rank < world:
        raise UserError(
            f"--dist_rank: {rank} given, the number of this process, from 0 to "
            f"{world - 1}, is needed with --dist_world_size {world} (or RANK in the "
            "environment)"
        )
    if args.dist_init_method == "env://":
        for option, name in (
            ("dist_master_addr", "MASTER_ADDR"),
            ("dist_master_port", "MASTER_PORT"),
        ):
            if getattr(args, option) is None and not os.environ.get(name):
                raise UserError(
                    f"--{option}: needed with --dist_world_size {world} (or {name} in "
                    "the environment)"
                )
    if args.dist_backend == "nccl" and args.ngpu == 0:
        raise UserError("--dist_backend nccl: for GPUs; on CPUs use gloo")


def _number(args: Namespace, option: str, variable: str) -> int | None:
    """Return an option, or else the environment's variable, as a number."""
    value = getattr(args, option)
    if value is None:
        value = os.environ.get(variable)
    try:
        return None if value is None else int(value)
    except ValueError:
        raise UserError(f"{variable}={value}: a number is needed") from None


def lost_peer(error: RuntimeError, args: Namespace) -> str | None:
    """Return a message if ``error`` says that another rank is gone, else None."""
    text = " ".join(str(error).split())
    distributed = isinstance(error, torch.distributed.DistError)
    if not distributed and not any(word in text.lower() for word in _LOST_PEER):
        return None
    rank = _number(args, "dist_rank", "RANK")
    return (
        f"rank {'?' if rank is None else rank}: another process of the training has "
        f"ended, or cannot be reached; see its log, and run again to resume "
        f"({text[:160]})"
    )

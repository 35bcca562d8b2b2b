"""State of a training run: its identity, whether it may resume, whether it is done.

``run.json`` holds the options that determine the result of a training; it is written at
the start. ``.done`` is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.data.token_list import read_token_list
from espnet_mtla.errors import UserError
from espnet_mtla.model import checkpoint
from espnet_mtla.text_files import read_json

logger = logging.getLogger(__name__)

DONE, IDENTITY = ".done", "run.json"
# Options that do not change the result of an epoch (duration, device, logging): they
# may differ when a run is resumed. Files are compared by content, not by path.
_FREE = frozenset(
    {
        *("max_epoch", "patience", "dry_run", "resume", "required", "version"),
        *("config", "print_config", "output_dir", "log_level", "log_interval"),
        *("use_tensorboard", "use_matplotlib", "num_att_plot"),
        *("ngpu", "num_workers", "local_rank", "distributed"),
        *("multiprocessing_distributed", "max_cache_size", "valid_max_cache_size"),
        *("max_cache_fd", "bpemodel", "non_linguistic_symbols", "trained_seconds"),
    }
)


# Options that runs of version 0.2 do not have: nothing if they are empty.
_NEW = ("lora", "lr_scale")


def run_identity(args: Namespace) -> dict[str, Any]:
    """Return the options that determine the result of a training, as JSON values."""
    chosen = {
        key: value
        for key, value in vars(args).items()
        if key not in _FREE and not key.startswith(("dist_", "wandb_"))
    }
    for key in _NEW:
        if not chosen.get(key):
            chosen.pop(key, None)
    chosen["token_list"] = read_token_list(args.token_list, args.token_type)
    chosen["normalize_conf"] = {
        key: value for key, value in args.normalize_conf.items() if key != "stats_file"
    }
    return json.loads(json.dumps(chosen, sort_keys=True, default=str))


def is_done(output: Path, identity: dict[str, Any], max_epoch: int) -> bool:
    """Return True if ``output`` holds this training, complete.

    Args:
        output: experiment folder.
        identity: options of the training, from :func:`run_identity`.
        max_epoch: number of epochs; a different number is not complete.
    """
    done = output / DONE
    if not done.exists():
        return False
    finished = read_json(done, "delete it to train again")
    return finished == {"sha256": _digest(identity), "max_epoch": max_epoch}


def start(output: Path, identity: dict[str, Any], resume: bool) -> None:
    """Prepare ``output`` for the first epoch, or for the next one after a stop.

    Args:
        output: experiment folder; created if missing.
        identity: options of the training, from :func:`run_identity`.
        resume: continue from the checkpoint; False deletes all checkpoints.
    Raises:
        UserError: the checkpoint was trained with other options, or is unreadable.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (*output.glob("*.pth"), output / IDENTITY):
            old.unlink(missing_ok=True)
    begun = output / IDENTITY
    if begun.exists():
        _refuse_changes(output, read_json(begun, "train into another folder"), identity)
    (output / DONE).unlink(missing_ok=True)
    with atomic_file(begun) as stream:
        json.dump(identity, stream, indent=1, sort_keys=True, ensure_ascii=False)
    epoch = checkpoint.repair(output)
    if epoch:
        logger.info("%s: going on after epoch %d", output, epoch)


def _refuse_changes(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if not any((output / name).exists() for name in checkpoint.NAMES):
        return  # stopped before the first checkpoint: no state to be inconsistent with
    changed = [
        key for key in sorted({*before, *now}) if before.get(key) != now.get(key)
    ]
    if changed:
        key = changed[0]
        raise UserError(
            f"{output}: was trained with other options ({', '.join(changed)}; {key}: "
            f"{_short(before.get(key))} then, {_short(now.get(key))} now); choose "
            "another --output_dir, or --resume false to train anew"
        )


def finish(output: Path, identity: dict[str, Any], args: Namespace) -> None:
    """Check that the last epoch updated the parameters, and write ``.done``.

    Args:
        output: experiment folder.
        identity: options of the training, from :func:`run_identity`.
        args: all options; ``max_epoch`` and ``accum_grad`` are used.
    Raises:
        UserError: the last epoch had no optimiser step.
    """
    reporter = checkpoint.load(output / checkpoint.CHECKPOINT)["reporter"]
    epoch = reporter["epoch"]
    if "grad_norm" not in reporter["stats"][epoch]["train"]:
        raise UserError(
            f"{output}: no step of epoch {epoch} could be made: its gradients were not "
            f"finite, or accum_grad={args.accum_grad} is more than an epoch's batches"
        )
    (output / checkpoint.PREVIOUS).unlink(missing_ok=True)
    with atomic_file(output / DONE) as stream:
        json.dump({"sha256": _digest(identity), "max_epoch": args.max_epoch}, stream)
    logger.info("%s: done after epoch %d", output, epoch)


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

"""How far a training has come: what it computes, may it go on, is it done.

``run.json`` holds the options that decide what a training computes, written when it
starts; ``.done`` is written last.
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

logger = logging.getLogger(__name__)

DONE, IDENTITY = ".done", "run.json"
# These change how long a run lasts, where it runs and what it tells, not what an epoch
# computes: they may differ when it is resumed. Of files, what matters is the content.
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


def run_identity(args: Namespace) -> dict[str, Any]:
    """The options that decide what a training computes, as JSON gives them back."""
    chosen = {
        key: value
        for key, value in vars(args).items()
        if key not in _FREE and not key.startswith(("dist_", "wandb_"))
    }
    chosen["token_list"] = read_token_list(args.token_list)
    chosen["normalize_conf"] = {
        key: value for key, value in args.normalize_conf.items() if key != "stats_file"
    }
    return json.loads(json.dumps(chosen, sort_keys=True, default=str))


def is_done(output: Path, identity: dict[str, Any], max_epoch: int) -> bool:
    """Whether just this training stands complete in ``output``."""
    done = output / DONE
    if not done.exists():
        return False
    kept = json.loads(done.read_text(encoding="utf-8"))
    return kept == {"sha256": _digest(identity), "max_epoch": max_epoch}


def start(output: Path, identity: dict[str, Any], resume: bool) -> None:
    """Make ``output`` ready for a first epoch or for the next one.

    Raises:
        UserError: what is there was trained with other options, or cannot be read.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (*output.glob("*.pth"), output / IDENTITY):
            old.unlink(missing_ok=True)
    begun = output / IDENTITY
    if begun.exists():
        _refuse_changes(output, json.loads(begun.read_text("utf-8")), identity)
    (output / DONE).unlink(missing_ok=True)
    with atomic_file(begun) as stream:
        json.dump(identity, stream, indent=1, sort_keys=True, ensure_ascii=False)
    epoch = checkpoint.repair(output)
    if epoch:
        logger.info("%s: going on after epoch %d", output, epoch)


def _refuse_changes(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if not any((output / name).exists() for name in checkpoint.NAMES):
        return  # killed before its first epoch was complete: nothing to mix up
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
    """Check that the training came to its end, and write ``.done``.

    Raises:
        UserError: it stopped since no step of an epoch could be made.
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

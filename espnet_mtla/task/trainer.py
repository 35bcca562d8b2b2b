"""espnet2's trainer with checkpoints that load safely and survive a killed process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer

from espnet_mtla.model.checkpoint import load, set_aside

logger = logging.getLogger(__name__)


class SafeTrainer(Trainer):
    """Trainer that writes and reads :mod:`espnet_mtla.model.checkpoint` files."""

    @staticmethod
    def resume(
        checkpoint: str | Path,
        model: torch.nn.Module,
        reporter: Reporter,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        scaler: Any,
        ngpu: int = 0,
        strict: bool = True,
    ) -> None:
        """Load the state of model, reporter, optimisers, schedulers and scaler.

        ``Trainer.run`` calls this; the signature is espnet2's.
        """
        states = load(checkpoint, "cuda" if ngpu > 0 else "cpu")
        model.load_state_dict(states["model"], strict=strict)
        reporter.load_state_dict(states["reporter"])
        for part, state in zip(optimizers, states["optimizers"], strict=True):
            part.load_state_dict(state)
        for part, state in zip(schedulers, states["schedulers"], strict=True):
            if part is not None:
                part.load_state_dict(state)
        if scaler is not None and states["scaler"] is not None:
            scaler.load_state_dict(states["scaler"])
        logger.info("resumed after epoch %d", reporter.get_epoch())

    @classmethod
    def validate_one_epoch(cls, **settings: Any) -> None:
        """Validate, then back up the checkpoint, which ``run`` overwrites next."""
        super().validate_one_epoch(**settings)
        distributed = settings["distributed_option"]
        if not distributed.distributed or distributed.dist_rank == 0:
            set_aside(settings["options"].output_dir)

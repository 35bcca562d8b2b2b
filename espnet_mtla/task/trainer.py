"""espnet2's trainer with checkpoints that load safely and survive a killed process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from espnet2.train.reporter import Reporter
from espnet2.train.trainer import Trainer

from espnet_mtla.model.checkpoint import (
    CHECKPOINT,
    FROZEN,
    frozen_names,
    load,
    save,
    set_aside,
)

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
        frozen = Path(checkpoint).parent / FROZEN
        if frozen.is_file():
            states["model"] = {**load(frozen), **states["model"]}
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
    def run(cls, model: torch.nn.Module, **settings: Any) -> None:
        """Train; checkpoints leave out what does not train, ``FROZEN`` holds it."""
        options, distributed = (
            settings["trainer_options"],
            settings["distributed_option"],
        )
        folder, names = Path(options.output_dir), frozen_names(model)
        resumed = options.resume and (folder / CHECKPOINT).is_file()
        first = not distributed.distributed or distributed.dist_rank == 0
        if first and not resumed:
            (folder / FROZEN).unlink(missing_ok=True)
            if names:
                state = model.state_dict()
                save({name: state[name] for name in names}, folder / FROZEN)

        def leave_out(_: object, state: dict[str, Any], *__: object) -> None:
            for name in names:
                del state[name]

        hook = model._register_state_dict_hook(leave_out)
        try:
            with mixed_precision(model, options.use_amp and options.ngpu == 0):
                super().run(model=model, **settings)
        finally:
            hook.remove()

    @classmethod
    def validate_one_epoch(cls, **settings: Any) -> None:
        """Validate, then back up the checkpoint, which ``run`` overwrites next."""
        super().validate_one_epoch(**settings)
        distributed = settings["distributed_option"]
        if not distributed.distributed or distributed.dist_rank == 0:
            set_aside(settings["options"].output_dir)


@contextmanager
def mixed_precision(model: torch.nn.Module, enabled: bool) -> Iterator[None]:
    """Compute products of ``model.forward`` in bfloat16 on a CPU (``use_amp``).

    espnet2 opens autocast for CUDA alone; on a CPU ``use_amp`` would change nothing.
    Parameters, gradients and losses stay float32, so no gradient scaling is needed.
    """
    if not enabled:
        yield
        return
    if not torch.cpu._is_avx512_bf16_supported():
        logger.warning(
            "use_amp: this CPU has no instructions for bfloat16; training is slower "
            "with it than without"
        )
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    try:
        with warnings.catch_warnings():
            # espnet2 creates the scaler and the autocast of CUDA, which do nothing.
            warnings.filterwarnings("ignore", message=".*CUDA is not available")
            yield
    finally:
        del model.forward  # the instance's; the method of the class is back

"""Read the checkpoints of ESPnet's trainer, and repair those of a killed run.

The trainer writes ``checkpoint.pth`` (all that a resumed run needs) in place, then
``Nepoch.pth`` (the parameters). A kill may leave one of them truncated, or the second
missing. Before each write :func:`set_aside` renames the old checkpoint; before a run
starts :func:`repair` restores a complete state.

Parameters that do not train are in neither: ``frozen.pth`` holds them once for all
epochs of a run. :func:`load_all` reads both.
"""

from __future__ import annotations

import datetime
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError, no_file

SAFE = ".safetensors"
FROZEN = "frozen.pth"
"""Parameters of a run that do not train."""
NAMES = CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.previous.pth"
# The reporter's statistics hold these besides numbers and strings.
_PLAIN: list[Any] = [
    datetime.timedelta,
    np.dtype,
    np.float64().__reduce__()[0],  # the function that restores a scalar
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]
logger = logging.getLogger(__name__)


class Unreadable(UserError):
    """The file is truncated, or not a torch file."""


def load(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Load a file of tensors and plain values; no code in it is executed.

    A name that ends in ``.safetensors`` is read as such, any other as torch's format.

    Raises:
        Unreadable: the file is truncated, or not a torch file.
        UserError: it is missing, or holds other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {no_file(path)}")
    if path.suffix == SAFE:
        return _load_safe(path, device)
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{path}: holds objects beyond tensors and numbers"
            ) from None
        raise Unreadable(f"{path}: cut off or not a torch file; remove it") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise Unreadable(f"{path}: cut off or not a torch file; remove it") from None


def load_all(path: str | Path, device: str = "cpu") -> dict[str, Any]:
    """Load parameters as :func:`load`, with those of ``frozen.pth`` beside the file.

    What the file itself has takes precedence.
    """
    parameters = load(path, device)
    frozen = Path(path).parent / FROZEN
    if Path(path).suffix != SAFE and frozen.is_file():
        return {**load(frozen, device), **parameters}
    return parameters


def frozen_names(model: torch.nn.Module) -> set[str]:
    """Return the names of the parameters that do not train; tied ones by each name."""
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, value in named if not value.requires_grad}


def _load_safe(path: Path, device: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device)
    except SafetensorError as error:
        raise Unreadable(
            f"{path}: cut off or not a safetensors file ({error}); get it again"
        ) from None


def notes_of(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; {} for other files."""
    if Path(path).suffix != SAFE:
        return {}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def save(content: dict[str, Any], path: str | Path) -> None:
    """Write in torch's format; the file appears complete or not at all."""
    with atomic_file(path, "wb") as stream:
        torch.save(content, stream)


def set_aside(folder: str | Path) -> None:
    """Rename the checkpoint, so that the next one does not overwrite it."""
    checkpoint = Path(folder) / CHECKPOINT
    if checkpoint.exists():
        os.replace(checkpoint, checkpoint.with_name(PREVIOUS))


def repair(folder: str | Path) -> int:
    """Restore a complete state in the folder of an interrupted run.

    Returns:
        The last complete epoch; 0 if the run must start again.
    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    folder = Path(folder)
    checkpoint, previous = folder / CHECKPOINT, folder / PREVIOUS
    states = _first_readable(checkpoint, previous)
    if states is None:
        return 0
    epoch = states["reporter"]["epoch"]
    snapshot = folder / f"{epoch}epoch.pth"
    if not _readable(snapshot):
        logger.info("%s: written again from the checkpoint", snapshot)
        save(states["model"], snapshot)
    return epoch


def _first_readable(checkpoint: Path, previous: Path) -> dict[str, Any] | None:
    """Load the newest complete checkpoint, and rename it to :data:`CHECKPOINT`."""
    if checkpoint.exists():
        try:
            return load(checkpoint)
        except Unreadable:
            if not previous.exists():
                raise UserError(
                    f"{checkpoint}: cut off, and no earlier one is left; remove "
                    f"{checkpoint.parent} and train again"
                ) from None
            logger.warning("%s: truncated; resuming from the one before", checkpoint)
    if not previous.exists():
        return None
    states = load(previous)
    os.replace(previous, checkpoint)
    return states


def _readable(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        load(path)
    except Unreadable:
        return False
    return True

"""Duration of a frame: of features, of the encoder's output, or of the prompt."""

from __future__ import annotations

from torch import nn

from espnet_mtla.errors import UserError
from espnet_mtla.model.padding import subsampling_factor


def seconds_per_frame(
    fs: int,
    frontend: nn.Module | None,
    encoder: nn.Module | None = None,
    stack: int = 1,
) -> float:
    """Return the time from one frame to the next, in seconds.

    Args:
        fs: samples per second; without a front-end, input frames per second.
        frontend: its frames are meant, unless an encoder follows.
        encoder: its frames are meant.
        stack: number of frames that the projector joins into one.

    Raises:
        UserError: the front-end has no ``hop_length``.
    """
    hop = 1 if frontend is None else getattr(frontend, "hop_length", None)
    if hop is None:
        raise UserError(
            f"frontend: {type(frontend).__name__} has no hop_length, the number "
            "of samples from one frame to the next"
        )
    return hop * subsampling_factor(encoder) * stack / fs

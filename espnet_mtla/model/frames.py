"""How much sound a frame stands for: of features, encoder output, or the prompt."""

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
    """Seconds from one frame to the next.

    Args:
        fs: samples a second; without front-end, given frames a second.
        frontend: alone, the frames are its own.
        encoder: the frames are the encoder's.
        stack: the frames are the projector's, which joins so many.

    Raises:
        UserError: the front-end does not tell its hop.
    """
    hop = 1 if frontend is None else getattr(frontend, "hop_length", None)
    if hop is None:
        raise UserError(
            f"frontend: {type(frontend).__name__} has no hop_length, which says how "
            "many samples a frame goes on"
        )
    return hop * subsampling_factor(encoder) * stack / fs

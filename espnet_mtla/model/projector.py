"""Encoder frames to decoder prompt: stack neighbours, then Linear, ReLU, Linear."""

from __future__ import annotations

from torch import Tensor, nn

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.config import ProjectorConfig


class FrameStackProjector(nn.Module):
    """Shorten an utterance ``stack``-fold and bring it to the decoder's width."""

    def __init__(
        self, input_size: int, output_size: int, config: ProjectorConfig
    ) -> None:
        super().__init__()
        self.stack = config.stack
        hidden = config.hidden_size or output_size
        self.layers = nn.Sequential(
            nn.Linear(input_size * config.stack, hidden),
            nn.ReLU(),
            nn.Linear(hidden, output_size),
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Project valid frames; a last, incomplete stack is filled with zeros.

        Args:
            frames: (B, T, E), valid up to ``lengths`` (B,).
        Returns:
            prompt (B, P, D) and its valid positions, ceil(lengths / stack).
        """
        batch, size, width = frames.shape
        frames = frames.masked_fill(~valid_frames(lengths, size).unsqueeze(-1), 0.0)
        frames = nn.functional.pad(frames, (0, 0, 0, -size % self.stack))
        stacked = frames.reshape(batch, -1, self.stack * width)
        return self.layers(stacked), (lengths + self.stack - 1) // self.stack

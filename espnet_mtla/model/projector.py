"""Projection of the encoder's output to the decoder's prompt.

Speech: neighbouring frames are stacked, then Linear, ReLU, Linear. Text: a convolution
over neighbouring embedded tokens is added.
"""

from __future__ import annotations

from torch import Tensor, nn

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.config import ProjectorConfig, TextProjectorConfig


class FrameStackProjector(nn.Module):
    """Concatenate ``stack`` frames and project them to the decoder's width."""

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
        """Project the valid frames; an incomplete last stack is filled with zeros.

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


class TokenConvolution(nn.Module):
    """Add to each token's vector a convolution over its neighbours.

    MTLA merges the latents of neighbouring tokens by a weighted sum, which loses their
    order. The convolution encodes the order into each vector before. It is initialised
    to zero.
    """

    stack = 1
    """Tokens per position of the prompt."""

    def __init__(self, size: int, config: TextProjectorConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            size, size, config.kernel, padding=config.kernel // 2
        )
        for parameter in self.convolution.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (B, L, D) and lengths (B,) of ``tokens`` (B, L, D)."""
        inside = valid_frames(lengths, tokens.size(1)).unsqueeze(-1)
        tokens = tokens.masked_fill(~inside, 0.0)
        near = self.convolution(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens + near, lengths

"""What stands between the prompt's vectors and the decoder.

Of speech, encoder frames: stack neighbours, then Linear, ReLU, Linear. Of text,
embedded tokens: tell each its neighbours.
"""

from __future__ import annotations

from torch import Tensor, nn

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.model.config import ProjectorConfig, TextProjectorConfig


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


class TokenConvolution(nn.Module):
    """Adds to each token's vector what a convolution makes of those around it.

    MTLA adds the latents of neighbouring tokens up, and no longer tells which of them
    came first. After this each token has said itself what stood before it and behind.
    At first it adds nothing.
    """

    stack = 1
    """Tokens of a position of the prompt."""

    def __init__(self, size: int, config: TextProjectorConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            size, size, config.kernel, padding=config.kernel // 2
        )
        for parameter in self.convolution.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``tokens`` (B, L, D), valid up to ``lengths`` (B,); both as they were."""
        inside = valid_frames(lengths, tokens.size(1)).unsqueeze(-1)
        tokens = tokens.masked_fill(~inside, 0.0)
        near = self.convolution(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens + near, lengths

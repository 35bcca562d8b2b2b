"""Mean and variance normalisation per utterance, independent of padding."""

from __future__ import annotations

from espnet2.layers.abs_normalize import AbsNormalize
from torch import Tensor

from espnet_mtla.frontend.lengths import valid_frames


class UtteranceMVN(AbsNormalize):
    """Subtract an utterance's mean and, on request, divide by its standard deviation.

    espnet2's layer of the same name includes padded frames in the variance, because
    subtracting the mean makes them non-zero. Here padding is set to zero again.
    """

    def __init__(
        self, norm_means: bool = True, norm_vars: bool = False, eps: float = 1e-10
    ) -> None:
        super().__init__()
        self.norm_means = norm_means
        self.norm_vars = norm_vars
        self.eps = eps

    def forward(self, x: Tensor, ilens: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise ``x`` (B, T, D), of which ``ilens`` (B,) frames are valid.

        Returns:
            The normalised ``x``, zero in padding, and ``ilens``.
        """
        mask = valid_frames(ilens, x.size(1)).unsqueeze(-1)  # (B, T, 1)
        frames = ilens.clamp(min=1).view(-1, 1, 1).to(x.dtype)
        x = x.masked_fill(~mask, 0.0)
        mean = x.sum(1, keepdim=True) / frames
        centred = (x - mean).masked_fill(~mask, 0.0)
        if self.norm_vars:
            variance = centred.square().sum(1, keepdim=True) / frames
            x, centred = (v / (variance + self.eps).sqrt() for v in (x, centred))
        return (centred if self.norm_means else x), ilens

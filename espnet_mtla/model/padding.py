"""Keep padding out of espnet2's encoders, whichever version of ESPnet they come from.

An utterance must get the same encoder output alone and in a batch. espnet2's encoders
break that in up to three places, and the versions of ESPnet differ in which of them:

- Convolutions inside a block read the frames behind an utterance's end, which earlier
  layers have filled with numbers.
- Subsampling counts one frame too many for a row that is not the longest.
- "Legacy" relative positions depend on the batch's size (the task refuses those).

This module mends the first two from outside, and leaves parameter names as they are.
The Conformer's batch normalisation stays what it is: while training, its statistics
are those of the batch.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn


class MaskedConv1d(nn.Conv1d):
    """A convolution over time that reads zeros behind each row's end.

    ``valid`` (B, 1, T) is set by the block it belongs to, for the call at hand: one
    thread at a time (:attr:`DecoderOnlySpeechModel.turns`).
    """

    valid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x``: (B, C, T)."""
        if self.valid is None:
            raise RuntimeError("MaskedConv1d called outside its block")
        return super().forward(x.masked_fill(~self.valid, 0.0))


def mask_convolutions(encoder: nn.Module) -> None:
    """Make every convolution over time in the encoder's blocks a masked one."""
    for block in encoder.get_submodule("encoders").children():
        if any([_replace(module) for module in list(block.modules())]):
            block.register_forward_pre_hook(_hand_out_mask)
            block.register_forward_hook(_take_mask_back, always_call=True)


def _replace(parent: nn.Module) -> bool:
    """Swap the direct children that look at neighbouring frames; true if any did."""
    found = False
    for name, conv in list(parent.named_children()):
        if type(conv) is nn.Conv1d and conv.kernel_size[0] > 1:
            masked = MaskedConv1d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size[0],
                stride=conv.stride[0],
                padding=conv.padding[0],
                groups=conv.groups,
                bias=conv.bias is not None,
            )
            masked.weight, masked.bias = conv.weight, conv.bias
            setattr(parent, name, masked)
            found = True
    return found


def _hand_out_mask(block: nn.Module, arguments: tuple[Any, ...]) -> None:
    # A block gets (x, mask (B, 1, T)) but calls its convolutions with x alone.
    mask = arguments[1].bool()
    for module in block.modules():
        if isinstance(module, MaskedConv1d):
            module.valid = mask


def _take_mask_back(block: nn.Module, *_: object) -> None:
    for module in block.modules():
        if isinstance(module, MaskedConv1d):
            module.valid = None


def subsampled_lengths(encoder: nn.Module, lengths: Tensor) -> Tensor:
    """Encoder frames of an utterance standing alone; ``lengths`` (B,) of features."""
    return _count_frames(_subsampling(encoder), lengths)


def count_frames_alone(encoder: nn.Module) -> None:
    """Make the encoder's subsampling count each row's frames as if it stood alone.

    ESPnet 202511 slices the padded mask instead, and so counts from the longest row.
    """
    layers = _subsampling(encoder)
    if layers:
        encoder.get_submodule("embed").register_forward_hook(
            functools.partial(_replace_mask, layers)
        )


def _replace_mask(
    layers: list[tuple[int, int]],
    _: nn.Module,
    arguments: tuple[Any, ...],
    output: tuple[Any, ...],
) -> tuple[Tensor, Tensor]:
    """Replace the mask (B, 1, T) in what ``embed(x, mask)`` returned."""
    x, mask = output
    lengths = _count_frames(layers, arguments[1].sum(-1, keepdim=True))  # (B, 1, 1)
    frames = torch.arange(mask.size(-1), device=mask.device)
    return x, (frames < lengths).to(mask.dtype)


def _count_frames(layers: list[tuple[int, int]], lengths: Tensor) -> Tensor:
    """Frames behind convolutions of (kernel, stride), for any shape of ``lengths``."""
    for kernel, stride in layers:
        lengths = (lengths - kernel) // stride + 1
    return lengths.clamp(min=0)


def subsampling_factor(encoder: nn.Module | None) -> int:
    """Feature frames from one encoder frame to the next; 1 without encoder."""
    if encoder is None:
        return 1
    return math.prod(stride for _, stride in _subsampling(encoder))


def _subsampling(encoder: nn.Module) -> list[tuple[int, int]]:
    """(kernel, stride) along time of each convolution before the blocks."""
    convolutions = getattr(getattr(encoder, "embed", None), "conv", ())
    return [
        (layer.kernel_size[0], layer.stride[0])
        for layer in convolutions
        if isinstance(layer, nn.Conv1d | nn.Conv2d)
    ]

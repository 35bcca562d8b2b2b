"""Make the output of espnet2's encoders independent of padding.

An utterance must get the same encoder output alone and in a batch. espnet2's encoders
break this in up to three places, depending on the version of ESPnet:

- Convolutions inside a block read the frames after an utterance's end, which earlier
  layers have filled with values.
- Subsampling counts one frame too many for a row that is not the longest.
- "Legacy" relative positions depend on the batch's size (the task refuses those).

This module corrects the first two by hooks; parameter names do not change. The
Conformer's batch normalisation is unchanged: training uses the batch's statistics.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn


class MaskedConv1d(nn.Conv1d):
    """A convolution over time that reads zeros after each row's end.

    Its block sets ``valid`` (B, 1, T) for each call, so that only one thread at a time
    may use it (:attr:`DecoderOnlySpeechModel.turns`).
    """

    valid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``x``: (B, C, T)."""
        if self.valid is None:
            raise RuntimeError("MaskedConv1d called outside its block")
        return super().forward(x.masked_fill(~self.valid, 0.0))


def mask_convolutions(encoder: nn.Module) -> None:
    """Replace the convolutions over time in the encoder's blocks by masked ones."""
    for block in encoder.get_submodule("encoders").children():
        if any([_replace(module) for module in list(block.modules())]):
            block.register_forward_pre_hook(_set_masks)
            block.register_forward_hook(_clear_masks, always_call=True)


def _replace(parent: nn.Module) -> bool:
    """Replace the direct children that read neighbouring frames; True if any."""
    replaced = False
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
            replaced = True
    return replaced


def _set_masks(block: nn.Module, arguments: tuple[Any, ...]) -> None:
    # A block gets (x, mask (B, 1, T)) but calls its convolutions with x alone.
    mask = arguments[1].bool()
    for module in block.modules():
        if isinstance(module, MaskedConv1d):
            module.valid = mask


def _clear_masks(block: nn.Module, *_: object) -> None:
    for module in block.modules():
        if isinstance(module, MaskedConv1d):
            module.valid = None


def subsampled_lengths(encoder: nn.Module, lengths: Tensor) -> Tensor:
    """Return each utterance's encoder frames (B,), from those of features (B,)."""
    return _count_frames(_subsampling(encoder), lengths)


def count_frames_alone(encoder: nn.Module) -> None:
    """Make the encoder's subsampling count each row's frames as if it were alone.

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
    """Return the frames after convolutions of (kernel, stride) without padding."""
    for kernel, stride in layers:
        lengths = (lengths - kernel) // stride + 1
    return lengths.clamp(min=0)


def subsampling_factor(encoder: nn.Module | None) -> int:
    """Return the feature frames per encoder frame; 1 without an encoder."""
    if encoder is None:
        return 1
    return math.prod(stride for _, stride in _subsampling(encoder))


def _subsampling(encoder: nn.Module) -> list[tuple[int, int]]:
    """Return (kernel, stride) along time of each convolution before the blocks."""
    convolutions = getattr(getattr(encoder, "embed", None), "conv", ())
    return [
        (layer.kernel_size[0], layer.stride[0])
        for layer in convolutions
        if isinstance(layer, nn.Conv1d | nn.Conv2d)
    ]

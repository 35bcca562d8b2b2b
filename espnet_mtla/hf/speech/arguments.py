"""Checks of the tensors that ``forward`` and ``generate`` take."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.errors import UserError


def label_counts(labels: Tensor, vocab_size: int) -> Tensor:
    """Return the number of tokens in each row of ``labels (B, U)``, ``(B,)``.

    Raises:
        UserError: another shape, padding (-100) before a token, or an id that is not a
            token of a text.
    """
    if labels.dim() != 2 or labels.is_floating_point():
        raise UserError("labels: token ids of shape (batch, tokens) are needed")
    inside = labels != -100
    counts = inside.sum(1)
    place = torch.arange(labels.size(1), device=labels.device)
    if not torch.equal(inside, place < counts.unsqueeze(1)):
        raise UserError("labels: -100 before a token; pad texts on the right")
    wrong = labels[inside & ((labels < 0) | (labels >= vocab_size - 1))]
    if len(wrong):
        raise UserError(
            f"labels: {int(wrong[0])} given, tokens of a text are 0 to "
            f"{vocab_size - 2}; <sos/eos> is put around them by itself"
        )
    return counts


def sample_lengths(samples: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the number of samples in each row without padding, ``(B,)``.

    Raises:
        UserError: no samples, a mask of another shape, or padding on the left.
    """
    if samples is None or samples.dim() != 2:
        raise UserError("input_values: samples of shape (batch, samples) are needed")
    if not samples.is_floating_point():
        raise UserError(
            f"input_values: {samples.dtype} given, floats in [-1, 1] needed; the "
            "processor makes them of integers"
        )
    if mask is None:
        return torch.full((len(samples),), samples.size(1), device=samples.device)
    if mask.shape != samples.shape:
        raise UserError(
            f"attention_mask: {tuple(mask.shape)} given, the {tuple(samples.shape)} of "
            "input_values needed"
        )
    lengths = mask.long().sum(1)
    place = torch.arange(mask.size(1), device=mask.device)
    if not torch.equal(mask.bool(), place < lengths.unsqueeze(1)):
        raise UserError("attention_mask: sound is padded on the right alone")
    return lengths

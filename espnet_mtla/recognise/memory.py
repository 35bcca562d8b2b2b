"""Size of a batch that fits into the free memory, by the decoder's memory formula."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE
from espnet_mtla.decoder.memory import Load, decode_bytes
from espnet_mtla.errors import UserError
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.recognise.fusion import load_fusion
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.search.decoder_scorer import cache_options
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel

DECODER_SHARE = 0.6
"""Share of the free memory that is planned for the decoder; the rest is the encoder's
activations."""


def check_fits(
    trained: TrainedModel, options: DecodeOptions, longest: int, total: int | None
) -> None:
    """Refuse options with which one utterance exceeds the memory of the machine.

    Args:
        trained: the model.
        options: how it decodes.
        longest: length of the longest utterance, in the unit of ``batch_frames``.
        total: bytes of memory; None: unknown.
    Raises:
        UserError: by the formula that ``espnet-mtla plan`` uses, it does not fit.
    """
    if trained.model.decoder is None or total is None:
        return
    load = utterance_load(trained, options, longest)
    needed = load_bytes(trained, options, load)
    if needed > total:
        raise UserError(
            f"beam_size {options.beam_size} with at most {load.tokens} tokens: one "
            f"utterance needs {needed / 1e9:.1f} GB, and there are {total / 1e9:.1f}; "
            "lower beam_size or max_length_ratio (espnet-mtla plan computes what fits)"
        )


def total_bytes(device: torch.device) -> int | None:
    """Return the bytes of memory of a device; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # another system
        return None


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes of free memory; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            entries = dict(line.split(":") for line in lines)
    except FileNotFoundError:  # not Linux
        return None
    return int(entries["MemAvailable"].split()[0]) * 1024


def prompt_frames(trained: TrainedModel, frames: int) -> int:
    """Return the number of prompt positions of an utterance; of sound at least 1.

    Args:
        trained: the model; its projector stacks encoder frames.
        frames: length in frames of 10 ms, or in tokens of a text.
    """
    if trained.unit == "token":
        return frames
    model = trained.model
    stack = 1 if model.projector is None else model.projector.stack
    seconds = seconds_per_frame(trained.fs, model.frontend, model.encoder, stack)
    return max(1, math.ceil(frames / FRAMES_PER_SECOND / seconds))


def batch_frames(
    trained: TrainedModel, options: DecodeOptions, longest: int, free: int | None
) -> int:
    """Return ``options.batch_frames``, or less if the caches would not fit.

    The memory of a frame grows with the length of its utterance, so that the longest
    utterance decides.

    Args:
        trained: the model.
        options: how it decodes.
        longest: length of the longest utterance, in the unit of ``batch_frames``.
        free: bytes of free memory; None: unknown, and the options alone decide.
    Returns:
        Size of a batch, at least ``longest``.
    """
    if trained.model.decoder is None or free is None:
        return options.batch_frames
    load = utterance_load(trained, options, longest)
    utterance = load_bytes(trained, options, load)
    utterances = int(DECODER_SHARE * free / utterance)
    if utterances * longest >= options.batch_frames:
        return options.batch_frames
    size = max(1, utterances) * longest
    logging.info(
        "batches of %d frames instead of %d: %.1f GiB of memory are free",
        *(size, options.batch_frames, free / 2**30),
    )
    return size


def utterance_load(trained: TrainedModel, options: DecodeOptions, length: int) -> Load:
    """Return what decoding one utterance takes.

    Args:
        trained: the model.
        options: how it decodes.
        length: of the utterance, in the unit of ``batch_frames``.
    """
    frames = prompt_frames(trained, length)
    return Load(
        batch=1,
        beam=options.beam_size,
        frames=frames,
        tokens=int(length_limits(torch.tensor([frames]), options)[1]),
        share_prompt=options.share_prompt,
        itemsize=getattr(torch, options.dtype).itemsize,
        options=cache_options(options),
    )


def load_bytes(trained: TrainedModel, options: DecodeOptions, load: Load) -> int:
    """Return the bytes that decoder and language model need for a load."""
    if trained.model.decoder is None:
        return 0
    total = decode_bytes(trained.model.decoder, load)
    lm = load_fusion(trained, options).lm if options.lm_weight else None
    if lm is not None:
        total += decode_bytes(lm, replace(load, frames=0, options=DEFAULT_CACHE))
    return total

"""How many utterances fit into the memory that is free, by the planner's formula."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from espnet_mtla.decoder.memory import Load, decode_bytes
from espnet_mtla.model.frames import seconds_per_frame
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.search.decoder_scorer import cache_options
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import Batchable

SHARE = 0.6
"""Of the free memory that decoding may plan with; the encoder has the rest."""


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free now; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            told = dict(line.split(":") for line in lines)
    except FileNotFoundError:  # not Linux
        return None
    return int(told["MemAvailable"].split()[0]) * 1024


def prompt_frames(trained: TrainedModel, frames: int) -> int:
    """Positions of the prompt that an utterance of ``frames`` becomes, at least 1.

    Of a text they are its tokens, of sound its encoder frames, stacked.
    """
    if trained.read_source is not None:
        return frames
    model = trained.model
    stack = 1 if model.projector is None else model.projector.stack
    seconds = seconds_per_frame(trained.fs, model.frontend, model.encoder, stack)
    return max(1, math.ceil(frames / FRAMES_PER_SECOND / seconds))


def batch_frames(
    trained: TrainedModel,
    options: DecodeOptions,
    utterances: Sequence[Batchable],
    free: int | None,
) -> int:
    """``options.batch_frames``, or fewer where their caches do not fit.

    The longest utterance sets the price of a frame, since that grows with the length.
    """
    decoder = trained.model.decoder
    if decoder is None or free is None:
        return options.batch_frames
    longest = max(utterance.frames for utterance in utterances)
    frames = prompt_frames(trained, longest)
    tokens = int(length_limits(torch.tensor([frames]), options)[1])
    load = Load(
        batch=1,
        beam=options.beam_size,
        frames=frames,
        tokens=tokens,
        share_prompt=options.share_prompt,
        itemsize=getattr(torch, options.dtype).itemsize,
        options=cache_options(options),
    )
    fitting = int(SHARE * free / decode_bytes(decoder, load)) * longest
    if fitting >= options.batch_frames:
        return options.batch_frames
    logging.info(
        "batches of %d frames instead of %d: %.1f GiB of memory are free",
        *(max(fitting, longest), options.batch_frames, free / 2**30),
    )
    return max(fitting, longest)

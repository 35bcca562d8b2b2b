"""How many utterances fit into the memory that is free, by the planner's formula."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from espnet_mtla.decoder.plan import Load, decode_bytes
from espnet_mtla.search.decoder_scorer import cache_options
from espnet_mtla.search.limits import length_limits
from espnet_mtla.search.options import DecodeOptions

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import Batchable

SHARE = 0.6
"""Of the free memory that decoding may plan with; the encoder has the rest."""
ENCODED_SHARE = 0.25
"""Prompt frames a frame of 10 ms: encoders keep one of four. Without one all stay."""


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
    share = 1.0 if trained.model.encoder is None else ENCODED_SHARE
    frames = max(1, round(longest * share))
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

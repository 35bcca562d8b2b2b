"""The formula of the memory that decoding needs, for choosing batch sizes in advance.

The bytes of the caches are exact. The memory of a step beside them is an upper
estimate: a few copies of the vocabulary's scores, a layer's activations of the prompt,
and the search's past tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from espnet_mtla.attention import attention_settings, parse_attention
from espnet_mtla.attention.decoding.layout import DEFAULT_CACHE
from espnet_mtla.attention.decoding.layout import CacheOptions as CacheOptions
from espnet_mtla.decoder.config import DecoderConfig
from espnet_mtla.settings.checks import check_count, check_flags

if TYPE_CHECKING:
    from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

SCORE_COPIES = 4  # logits, their log-softmax, and results of the search
PROMPT_COPIES = 6  # the prompt, normalised and projected, before it is cached


@dataclass(frozen=True)
class Load:
    """A batch to decode: ``batch`` utterances of equal length.

    Attributes:
        batch: utterances.
        beam: hypotheses of each.
        frames: prompt frames of each.
        tokens: tokens that may be generated, without <eos>.
        share_prompt: one copy of the prompt for all hypotheses of an utterance.
        itemsize: bytes of a number of the decoder.
        options: how the cache is stored.
    """

    batch: int
    beam: int
    frames: int
    tokens: int
    share_prompt: bool = True
    itemsize: int = 4
    options: CacheOptions = DEFAULT_CACHE

    def __post_init__(self) -> None:
        check_count(self, "batch", "beam", "frames", "itemsize", least=0)
        check_count(self, "tokens", least=0)
        check_flags(self, "share_prompt")


def cache_bytes(decoder: DecoderOnlyTransformer, load: Load) -> int:
    """Return the bytes allocated for all layers' caches and for scratch memory."""
    dtype, room = load.options.dtype, load.tokens + 1  # and <sos>
    copies = 1 if load.share_prompt else load.beam
    layouts = [layer.attention.layout for layer in decoder.layers]
    suffix = [x.room_bytes(room, load.beam, load.itemsize, dtype) for x in layouts]
    total = sum(suffix) + (suffix[0] if load.beam > 1 else 0)
    for layer in decoder.layers:
        layout = layer.attention.layout
        stored = layer.attention.prompt_layout(load.options)
        slots = copies * ((load.frames + layout.offset) // layout.stride)
        total += stored.nbytes(slots, load.itemsize, dtype)
        raw = copies * layout.tail_size(load.frames)
        total += layout.nbytes(raw, load.itemsize, dtype)
    return load.batch * total


def decode_bytes(decoder: DecoderOnlyTransformer, load: Load) -> int:
    """Return the bytes of :func:`cache_bytes`, plus an upper estimate of the rest."""
    config, rows = decoder.config, load.batch * load.beam
    scores = SCORE_COPIES * rows * config.vocab_size * 4
    prompt = PROMPT_COPIES * load.batch * load.frames * config.embed_dim * 4
    past = 2 * 8 * rows * (load.tokens + 1)
    return cache_bytes(decoder, load) + scores + prompt + past


def most(fits: Callable[[int], bool], at_most: int = 10**7) -> int:
    """Return the largest whole number that ``fits``; 0 if 1 does not.

    ``fits`` must be true up to some number and false above it.

    >>> most(lambda number: number * number <= 50)
    7
    """
    low, high = 0, 1
    while high <= at_most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def sketch(
    attention: str, vocab_size: int, conf: Mapping[str, Any]
) -> DecoderOnlyTransformer:
    """Build a decoder with another attention than that of ``conf``, without parameters.

    The parameters are on the meta device and take no memory.

    Args:
        attention: a name; MTLA with its stride, ``mtla_s2``.
        vocab_size: tokens of the vocabulary.
        conf: ``decoder_conf``. Its widths of latents are used for MLA and MTLA alike.

    Raises:
        UserError: an unknown name or key.
    """
    from espnet_mtla.decoder.transformer import DecoderOnlyTransformer

    name, implied = parse_attention(attention)
    valid, latent = attention_settings(name), ("mla", "mtla")
    settings = dict(conf)
    widths = dict(settings.pop("attention_conf", None) or {})
    trained = settings.pop("attention", "mtla")
    if trained != name and not {trained, name} <= set(latent):
        widths = {}
    if implied:  # the name says which options it has
        valid = [key for key in valid if key not in ("raw_window", "phase")]
    widths = {key: value for key, value in widths.items() if key in valid} | implied
    config = DecoderConfig(
        vocab_size, **{**settings, "attention": name, "attention_conf": widths}
    )
    with torch.device("meta"):
        return DecoderOnlyTransformer(config)

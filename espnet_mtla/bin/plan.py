"""Compute what fits into a memory: utterances, hypotheses, seconds.

Prints for each attention type the cache of a batch, and the largest batch, beam and
length, each with the other two as given by the options. Decoding plans its batches by
the same formula. It counts parameters, but not the encoder's activations: leave memory
for them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.search.options import (
    CACHE_DTYPES,
    DTYPES,
    MOST_BEAM,
    PROMPT_CACHES,
)
from espnet_mtla.settings.checks import check_number, count, require

if TYPE_CHECKING:
    from espnet_mtla.decoder.memory import Load

ATTENTIONS = ["mha", "gqa", "mqa", "mla", "mtla_s2", "mtla_s3", "mtla_s4"]
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
DEFAULT_VOCAB = 5000


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="espnet-mtla plan",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, help="config.yaml of an experiment, or a training YAML")
    add("--memory", type=memory, default="16G", help="bytes, or with K, M, G, T")
    add("--attention", nargs="+", default=ATTENTIONS, help="names, MTLA with stride")
    add("--batch", type=count, default=1, help="utterances")
    add("--beam_size", type=count, default=10, help="hypotheses an utterance")
    add("--seconds", type=float, default=10.0, help="of sound an utterance")
    add("--tokens_per_second", type=float, default=5.0, help="generated at most")
    add("--frames_per_second", type=float, help="of prompt; default: the config's")
    add("--vocab_size", type=count, help="default: the config's token_list, or 5000")
    add("--dtype", choices=DTYPES, default="float32", help="of decoder and cache")
    add("--cache_dtype", choices=CACHE_DTYPES, help="8 bits a number of the cache")
    add("--prompt_cache", choices=PROMPT_CACHES, default="latent")
    add("--copy_prompt", action="store_true", help="a copy of the prompt a hypothesis")
    return parser.parse_args()


def memory(text: str) -> int:
    """Return the bytes of ``24G``, ``512 MiB`` or a plain number.

    >>> memory("1.5k")
    1536
    """
    form = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if form is None or float(form[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} given, one like 24G is needed")
    return int(float(form[1]) * UNITS[form[2]])


def main() -> None:
    args = parse()
    numbers = ["seconds", "tokens_per_second"]
    numbers += [] if args.frames_per_second is None else ["frames_per_second"]
    check_number(args, *numbers, inside="(0, inf)", prefix="--")
    fine = args.beam_size <= MOST_BEAM
    require(fine, "--beam_size", args.beam_size, f"at most {MOST_BEAM} is")

    from espnet_mtla.score.table import aligned
    from espnet_mtla.settings.yaml_files import load_config

    config = {} if args.config is None else load_config(args.config)
    rate = args.frames_per_second or frames_per_second(config)
    rows = [capacity(args, name, config, rate) for name in args.attention]
    unit = "token of the source" if config.get("task") == "sum" else "second"
    print(
        f"{args.memory / 2**30:.2f} GiB, prompts of {rate:g} frames a {unit}, "
        f"{args.tokens_per_second:g} tokens a second, {args.dtype}"
    )
    header = [
        "attention",
        f"cache MiB, {args.batch} x beam {args.beam_size} x {args.seconds:g} s",
        f"batch at beam {args.beam_size}, {args.seconds:g} s",
        f"beam at batch {args.batch}, {args.seconds:g} s",
        f"seconds at batch {args.batch}, beam {args.beam_size}",
    ]
    print(aligned(header, rows, left=1))


def frames_per_second(config: Mapping[str, Any]) -> float:
    """Return prompt frames a second of sound, or a token of text: then 1.

    Front-end and encoder are built without memory for parameters.

    Raises:
        UserError: front-end, encoder or projector cannot be built as configured.
    """
    if config.get("task") == "sum":
        return 1.0
    import torch

    from espnet_mtla.model.components import (
        CHOICES,
        FRONTEND,
        build_encoder,
        build_part,
        sampling_rate,
    )
    from espnet_mtla.model.config import ProjectorConfig
    from espnet_mtla.model.errors import config_errors
    from espnet_mtla.model.frames import seconds_per_frame
    from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND

    args = argparse.Namespace()
    for choices in CHOICES:
        setattr(args, choices.name, config.get(choices.name, choices.default))
        settings = config.get(f"{choices.name}_conf") or {}
        setattr(args, f"{choices.name}_conf", settings)
    try:
        frontend = build_part(FRONTEND, args)
    except UserError as error:
        raise UserError(f"{error}; or give --frames_per_second") from None
    width = frontend.output_size() if frontend else config.get("input_size")
    with torch.device("meta"):
        encoder = build_encoder(args, width or 80)
    with config_errors("projector_conf"):
        projector = ProjectorConfig(**(config.get("projector_conf") or {}))
    fs = sampling_rate(args) if frontend else FRAMES_PER_SECOND
    return 1 / seconds_per_frame(fs, frontend, encoder, projector.stack)


def capacity(
    args: argparse.Namespace, name: str, config: Mapping[str, Any], rate: float
) -> list[str]:
    """Return the row of one attention type.

    Args:
        args: the options.
        name: the attention type.
        config: configuration of the model; empty: defaults.
        rate: prompt frames a second.
    """
    from espnet_mtla.decoder.memory import cache_bytes, decode_bytes, most, sketch
    from espnet_mtla.model.decoders import PRETRAINED, pretrained_sizes

    tokens = config.get("token_list")
    vocab_size = len(tokens) if isinstance(tokens, list) else DEFAULT_VOCAB
    conf = dict(config.get("decoder_conf") or {})
    if config.get("decoder") == PRETRAINED:
        conf = pretrained_sizes(conf, name)
        vocab_size = conf.pop("vocab_size")
    decoder = sketch(name, args.vocab_size or vocab_size, conf)
    load = load_of(args, rate, args.seconds)
    parameters = sum(p.numel() for p in decoder.parameters()) * load.itemsize

    def fits(candidate: Load) -> bool:
        return parameters + decode_bytes(decoder, candidate) <= args.memory

    batch = most(lambda n: fits(replace(load, batch=n)))
    beam = most(lambda n: fits(replace(load, beam=n)), MOST_BEAM)
    seconds = most(lambda n: fits(load_of(args, rate, n)))
    shown = f"{cache_bytes(decoder, load) / 2**20:.1f}"
    return [name, shown, str(batch), str(beam), str(seconds)]


def load_of(args: argparse.Namespace, rate: float, seconds: float) -> Load:
    """Return the load of the options, with utterances of ``seconds``."""
    import torch

    from espnet_mtla.decoder.memory import CacheOptions, Load

    return Load(
        batch=args.batch,
        beam=args.beam_size,
        frames=max(1, round(seconds * rate)),
        tokens=max(1, round(seconds * args.tokens_per_second)),
        share_prompt=not args.copy_prompt,
        itemsize=getattr(torch, args.dtype).itemsize,
        options=CacheOptions(dtype=args.cache_dtype, prompt=args.prompt_cache),
    )


if __name__ == "__main__":
    run(main)

"""A trained experiment's decoding: batches, single utterances, and ESPnet's own.

ESPnet's ``asr_inference`` runs beside ours with a Transformer decoder of the same
sizes on the same encoder, untrained: each utterance gets as many tokens as our best
hypothesis has, so that both do the same number of steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from espnet_mtla.checks import count

if TYPE_CHECKING:
    from espnet2.bin.asr_inference import Speech2Text

    from espnet_mtla.benchmark.report import Report, Value
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.recognise.utterances import Sound

Seconds = tuple[float, float]
"""Of the clock, and of the CPU: what others on a shared machine take is not in it."""
SAME_MODEL = (
    *("token_list", "token_type", "bpemodel", "frontend", "frontend_conf"),
    *("normalize", "normalize_conf", "encoder", "encoder_conf", "input_size"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, help="holds config.yaml, model.pth")
    add("--data", type=Path, required=True, help="data folder of that recipe")
    add("--utterances", type=count, default=96, help="of the data folder, at most")
    add("--batch", type=count, default=32, help="utterances a batch")
    add("--beam_size", type=count, default=10, help="hypotheses an utterance")
    add("--no_espnet", action="store_true", help="time ours alone")


def run(args: argparse.Namespace) -> Report:
    import torch

    from espnet_mtla.benchmark.report import Report
    from espnet_mtla.recognise.load import load_model
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.search.options import DecodeOptions

    options = DecodeOptions(beam_size=args.beam_size)
    trained = load_model(args.model_dir, torch.device(args.device), options)
    recogniser = Recogniser(trained, options)
    sounds = _sounds(args, trained.fs)
    size = args.batch
    groups = [sounds[i : i + size] for i in range(0, len(sounds), size)]
    recogniser(sounds[:1])  # warm-up
    found: dict[str, dict[str, list[int]]] = {}
    runs: dict[str, Seconds] = {}
    peer = None if args.no_espnet else _espnet(args)
    for _ in range(min(args.rounds, 3)):
        for who, batches in (("batches", groups), ("singles", [[s] for s in sounds])):
            seconds, found[who] = _decode(recogniser, batches)
            runs[who] = min(seconds, runs.get(who, seconds))
        if peer is not None:
            seconds = _decode_by_espnet(peer, sounds, found["singles"])
            runs["espnet, singles"] = min(seconds, runs.get("espnet, singles", seconds))
    notes = [_same(found), f"fastest of {min(args.rounds, 3)} passes"]
    audio = sum(len(sound.samples) for sound in sounds) / trained.fs
    rows: list[dict[str, Value]] = [
        {
            "who": who,
            "utterances": len(sounds),
            "audio s": audio,
            "decoding s": seconds,
            "CPU s": busy,
            "RTF": seconds / audio,
            "batches are x faster": seconds / runs["batches"][0],
            "CPU x": busy / runs["batches"][1],
        }
        for who, (seconds, busy) in runs.items()
    ]
    title = f"Decoding {args.model_dir.name}, beam {args.beam_size}"
    return Report(part="recipe", title=title, rows=rows, notes=notes)


def _sounds(args: argparse.Namespace, fs: int) -> list[Sound]:
    """Of like length beside each other, as batches are made."""
    from espnet_mtla.recognise.utterances import Sound, list_utterances, read_sound

    chosen = list_utterances(args.data, fs)[: args.utterances]
    chosen.sort(key=lambda utterance: utterance.frames)
    return [Sound(u.key, read_sound(u, fs)) for u in chosen]


def _decode(
    recogniser: Recogniser, batches: list[list[Sound]]
) -> tuple[Seconds, dict[str, list[int]]]:
    from espnet_mtla.benchmark.measure import synchronise

    synchronise(recogniser.trained.device)
    began, busy = time.perf_counter(), time.process_time()
    results = [result for batch in batches for result in recogniser(batch)]
    seconds = time.perf_counter() - began, time.process_time() - busy
    return seconds, {result.key: result.nbest[0].tokens for result in results}


def _same(found: dict[str, dict[str, list[int]]]) -> str:
    """The gate: what an utterance gives does not depend on its batch."""
    from espnet_mtla.errors import UserError

    for key, tokens in found["singles"].items():
        if found["batches"][key] != tokens:
            raise UserError(f"{key}: another text in a batch than alone; not reported")
    return f"gate: {len(found['singles'])} utterances, the same text in both"


def _espnet(args: argparse.Namespace) -> Speech2Text:
    """ESPnet's Speech2Text with encoder and front-end as ours, and random weights."""
    import torch
    import yaml
    from espnet2.bin.asr_inference import ASRTask, Speech2Text

    ours = yaml.safe_load((args.model_dir / "config.yaml").read_text(encoding="utf-8"))
    sizes = ours["decoder_conf"]
    with mock.patch.object(sys, "argv", sys.argv[:1]):  # which ESPnet would parse
        config = ASRTask.get_default_config()
    config |= {key: ours[key] for key in SAME_MODEL}
    stats = args.model_dir / "feats_stats.npz"
    if config["normalize"] == "global_mvn" and stats.is_file():
        config["normalize_conf"] = {
            **config["normalize_conf"],
            "stats_file": str(stats),
        }
    config["decoder"] = "transformer"
    config["decoder_conf"] = {
        "attention_heads": sizes["num_heads"],
        "linear_units": sizes["ffn_dim"],
        "num_blocks": sizes["num_layers"],
    }
    with tempfile.TemporaryDirectory() as folder:
        file, weights = Path(folder) / "config.yaml", Path(folder) / "model.pth"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        model = ASRTask.build_model(argparse.Namespace(**config))
        torch.save(model.state_dict(), weights)
        decode = Speech2Text(
            str(file),
            str(weights),
            device=args.device,
            beam_size=args.beam_size,
            ctc_weight=0.0,
        )
    decode.beam_search.normalize_length = False
    return decode


def _decode_by_espnet(
    decode: Speech2Text, sounds: list[Sound], found: dict[str, list[int]]
) -> Seconds:
    """The same sounds, and for each as many tokens as ours were."""
    decode(sounds[0].samples)  # warm-up
    began, busy = time.perf_counter(), time.process_time()
    for sound in sounds:
        # A negative ratio is a number of tokens; the largest one counts <eos>.
        decode.minlenratio = -max(len(found[sound.key]), 1)
        decode.maxlenratio = decode.minlenratio - 1
        decode(sound.samples)
    return time.perf_counter() - began, time.process_time() - busy

"""A trained experiment's decoding: batches and single utterances, ours and ESPnet's.

ESPnet's ``Speech2Text`` runs beside ours (:mod:`.recipe_peer`): on the same data, with
the same encoder, sizes, beam, CTC weight and batches. For both the report counts the
utterances that get the same text in a batch as alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    from espnet_mtla.benchmark.report import BenchmarkReport, Value
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.recognise.utterances import Sound

Seconds = tuple[float, float]
"""Of the clock, and of the CPU: what others on a shared machine take is not in it."""
Texts = dict[str, list[int]]
"""Token ids of the best hypothesis, by the utterance's key."""
Decode = Callable[[Sequence["Sound"]], Texts]
OURS, ALONE = ("batches", "singles"), "singles"
ESPNET = ("espnet, batches", "espnet, singles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, help="holds config.yaml, model.pth")
    add("--data", type=Path, required=True, help="data folder of that recipe")
    add("--utterances", type=count, default=96, help="of the data folder, at most")
    add("--batch", type=count, default=32, help="utterances a batch")
    add("--beam_size", type=count, default=10, help="hypotheses an utterance")
    add("--ctc_weight", type=float, default=0.0, help="of CTC prefix scores, in [0, 1)")
    add("--no_espnet", action="store_true", help="time ours alone")


def run(args: argparse.Namespace) -> BenchmarkReport:
    import torch

    from espnet_mtla.benchmark.recipe_peer import EspnetPeer
    from espnet_mtla.benchmark.report import BenchmarkReport
    from espnet_mtla.recognise.load import load_model
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.search.options import DecodeOptions

    options = DecodeOptions(beam_size=args.beam_size, ctc_weight=args.ctc_weight)
    trained = load_model(args.model_dir, torch.device(args.device), options)
    ours = _best_tokens(Recogniser(trained, options))
    sounds = _sounds(args, trained.fs)
    peer = None if args.no_espnet else EspnetPeer(args, trained)
    groups = [sounds[i : i + args.batch] for i in range(0, len(sounds), args.batch)]
    cuts = dict(zip(OURS, (groups, [[sound] for sound in sounds]), strict=True))
    ours(groups[0])  # warm-up
    texts: dict[str, Texts] = {}
    seconds: dict[str, Seconds] = {}
    rounds = min(args.rounds, 3)
    for turn in range(rounds):
        for who, cut in cuts.items():
            _time_pass(who, ours, cut, args.device, texts, seconds)
        if peer is None:
            continue
        peer.set_lengths(texts[ALONE])
        if turn == 0:
            peer(groups[0])  # warm-up
        for who, cut in zip(ESPNET, cuts.values(), strict=True):
            _time_pass(who, peer, cut, args.device, texts, seconds)
    _check_same(texts["batches"], texts["singles"])
    notes = [
        f"fastest of {rounds} passes",
        "ESPnet: a decoder of the same sizes with "
        "random weights and as many tokens as ours",
    ]
    audio = sum(len(sound.samples) for sound in sounds) / trained.fs
    title = f"Decoding {args.model_dir.name}, beam {args.beam_size}"
    title += f", CTC weight {args.ctc_weight:g}, batches of {args.batch}"
    rows = _rows(texts, seconds, audio)
    return BenchmarkReport(
        part="recipe", title=title, rows=rows, notes=notes[: 1 + bool(peer)]
    )


def _rows(
    texts: dict[str, Texts], seconds: dict[str, Seconds], audio: float
) -> list[dict[str, Value]]:
    """One row for each of those timed; ``audio`` is the length of all sounds in s."""
    ours, busy_ours = seconds["batches"]
    rows: list[dict[str, Value]] = []
    for who, (clock, busy) in seconds.items():
        alone = texts[who.replace("batches", ALONE)]
        same = sum(texts[who][key] == tokens for key, tokens in alone.items())
        rows.append(
            {
                "who": who,
                "same text as alone": f"{same} of {len(alone)}",
                "audio s": audio,
                "decoding s": clock,
                "CPU s": busy,
                "RTF": clock / audio,
                "our batches are x faster": clock / ours,
                "CPU x": busy / busy_ours,
            }
        )
    return rows


def _sounds(args: argparse.Namespace, fs: int) -> list[Sound]:
    """Of like length beside each other, as batches are made."""
    from espnet_mtla.recognise.utterances import Sound, list_utterances, read_sound

    chosen = list_utterances(args.data, fs)[: args.utterances]
    chosen.sort(key=lambda utterance: utterance.frames)
    return [Sound(u.key, read_sound(u, fs)) for u in chosen]


def _best_tokens(recogniser: Recogniser) -> Decode:
    def decode(batch: Sequence[Sound]) -> Texts:
        return {result.key: result.nbest[0].tokens for result in recogniser(batch)}

    return decode


def _time_pass(
    who: str,
    decode: Decode,
    batches: Sequence[Sequence[Sound]],
    device: str,
    texts: dict[str, Texts],
    seconds: dict[str, Seconds],
) -> None:
    """Decode all batches once; keep the texts, and the seconds of the fastest pass."""
    import torch

    from espnet_mtla.benchmark.measure import synchronise

    where = torch.device(device)
    synchronise(where)
    began, busy = time.perf_counter(), time.process_time()
    decoded = [decode(batch) for batch in batches]
    synchronise(where)
    taken = time.perf_counter() - began, time.process_time() - busy
    texts[who] = {key: tokens for part in decoded for key, tokens in part.items()}
    seconds[who] = min(taken, seconds.get(who, taken))


def _check_same(batches: Texts, singles: Texts) -> None:
    """The gate: what an utterance gives does not depend on its batch.

    Raises:
        UserError: Names an utterance that gets another text in a batch than alone.
    """
    from espnet_mtla.errors import UserError

    for key, tokens in singles.items():
        if batches[key] != tokens:
            raise UserError(f"{key}: another text in a batch than alone; not reported")

"""Time decoding with a trained experiment, in batches and one by one; and by ESPnet.

ESPnet's ``Speech2Text`` (:mod:`.espnet_decoding`) decodes the same data with the same
encoder, sizes, beam, CTC weight and batches. For both, the report counts the utterances
whose text in a batch equals their text alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.settings.checks import count

if TYPE_CHECKING:
    from espnet_mtla.benchmark.report import BenchmarkReport, Value
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.recognise.utterances import Sound

Seconds = tuple[float, float]
"""Wall-clock seconds, and CPU seconds, which exclude other work on the machine."""
Texts = dict[str, list[int]]
"""Token ids of the best hypothesis, by the utterance's key."""
Decode = Callable[[Sequence["Sound"]], Texts]
OURS, ALONE = ("batches", "singles"), "singles"
ESPNET = ("espnet, batches", "espnet, singles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    add = parser.add_argument
    add(
        "--model_dir",
        type=Path,
        required=True,
        help="experiment: config.yaml, model.pth",
    )
    add("--data", type=Path, required=True, help="data folder of that recipe")
    add("--utterances", type=count, default=96, help="utterances to decode, at most")
    add("--batch", type=count, default=32, help="utterances per batch")
    add("--beam_size", type=count, default=10, help="hypotheses per utterance")
    add("--ctc_weight", type=float, default=0.0, help="weight of CTC scores, in [0, 1)")
    add("--no_espnet", action="store_true", help="do not time ESPnet")


def run(args: argparse.Namespace) -> BenchmarkReport:
    """Decode the data in batches and one by one; check that the texts are equal."""
    import torch

    from espnet_mtla.benchmark.espnet_decoding import EspnetDecoder
    from espnet_mtla.benchmark.report import BenchmarkReport
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.search.options import DecodeOptions

    options = DecodeOptions(beam_size=args.beam_size, ctc_weight=args.ctc_weight)
    device = torch.device(args.device)
    trained = TrainedModel.from_folder(args.model_dir, device, options)
    ours = _best_tokens(Recogniser(trained, options))
    sounds = _sounds(args, trained.fs)
    espnet = None if args.no_espnet else EspnetDecoder(args, trained)
    groups = [sounds[i : i + args.batch] for i in range(0, len(sounds), args.batch)]
    cuts = dict(zip(OURS, (groups, [[sound] for sound in sounds]), strict=True))
    ours(groups[0])  # warm-up
    texts: dict[str, Texts] = {}
    seconds: dict[str, Seconds] = {}
    rounds = min(args.rounds, 3)
    for turn in range(rounds):
        for who, cut in cuts.items():
            _time_pass(who, ours, cut, args.device, texts, seconds)
        if espnet is None:
            continue
        espnet.set_lengths(texts[ALONE])
        if turn == 0:
            espnet(groups[0])  # warm-up
        for who, cut in zip(ESPNET, cuts.values(), strict=True):
            _time_pass(who, espnet, cut, args.device, texts, seconds)
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
        part="recipe", title=title, rows=rows, notes=notes[: 1 + bool(espnet)]
    )


def _rows(
    texts: dict[str, Texts], seconds: dict[str, Seconds], audio: float
) -> list[dict[str, Value]]:
    """Return a row of the table for each run: ours and ESPnet's, batches and singles.

    Args:
        texts: best token ids by utterance, by name of the run.
        seconds: wall and CPU seconds, by name of the run.
        audio: length of all sounds in seconds.
    """
    our_wall, our_cpu = seconds["batches"]
    rows: list[dict[str, Value]] = []
    for who, (wall, cpu) in seconds.items():
        alone = texts[who.replace("batches", ALONE)]
        same = sum(texts[who][key] == tokens for key, tokens in alone.items())
        rows.append(
            {
                "who": who,
                "same text as alone": f"{same} of {len(alone)}",
                "audio s": audio,
                "decoding s": wall,
                "CPU s": cpu,
                "RTF": wall / audio,
                "our batches are x faster": wall / our_wall,
                "CPU x": cpu / our_cpu,
            }
        )
    return rows


def _sounds(args: argparse.Namespace, fs: int) -> list[Sound]:
    """Read the sounds, sorted by length, so that a batch has little padding."""
    from espnet_mtla.recognise.utterances import Sound, list_utterances, read_sound

    chosen = list_utterances(args.data, fs)[: args.utterances]
    chosen.sort(key=lambda utterance: utterance.frames)
    return [Sound(u.key, read_sound(u, fs)) for u in chosen]


def _best_tokens(recogniser: Recogniser) -> Decode:
    """Return a function that decodes a batch to its best hypotheses."""

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
    """Decode all batches once; store the texts, and the time of the fastest pass."""
    import torch

    from espnet_mtla.benchmark.measure import stopwatch

    with stopwatch(torch.device(device)) as watch:
        decoded = [decode(batch) for batch in batches]
    texts[who] = {key: tokens for part in decoded for key, tokens in part.items()}
    times = watch.wall, watch.cpu
    seconds[who] = min(times, seconds.get(who, times))


def _check_same(batches: Texts, singles: Texts) -> None:
    """Check that each utterance gets the same text in a batch as alone.

    Raises:
        UserError: one does not; names it.
    """
    from espnet_mtla.errors import UserError

    for key, tokens in singles.items():
        if batches[key] != tokens:
            raise UserError(f"{key}: another text in a batch than alone; not reported")

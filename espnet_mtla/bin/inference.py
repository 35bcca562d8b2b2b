"""Decode a data folder with a trained model.

Writes OUTPUT_DIR/{1best_recog,...}/{text,token,token_int,score} in ESPnet's form,
utterances.jsonl (sizes, seconds and flags of each utterance) and, last,
efficiency.json (time, real-time factor, memory). The first utterance is decoded once
before the measurement, as a warm-up.
"""

from __future__ import annotations

import argparse
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.recognise.options import add_config_options, read_options

if TYPE_CHECKING:
    from espnet_mtla.recognise.inputs import Input
    from espnet_mtla.recognise.recogniser import Recognised, Recogniser

PROGRESS_SECONDS = 10.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="espnet-mtla inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model_dir", type=Path, required=True, help="experiment or packed folder")
    add(
        "--data",
        type=Path,
        required=True,
        help="data folder: wav.scp, perhaps segments",
    )
    add("--output_dir", type=Path, required=True, help="folder to write")
    add(
        "--profile",
        action="store_true",
        help="print the time of each part; this turns CUDA graphs off",
    )
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    options = read_options(args)
    if args.profile:
        options = options.replaced(cuda_graphs="never")

    from espnet_mtla.data.lock import lock_folder
    from espnet_mtla.recognise.batches import plan_batches
    from espnet_mtla.recognise.inputs import list_inputs
    from espnet_mtla.recognise.load import TrainedModel, choose_device
    from espnet_mtla.recognise.output import write_output
    from espnet_mtla.recognise.profile import Profile
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.score.efficiency import summarise, table

    device = choose_device(args.ngpu)
    trained = TrainedModel.from_folder(args.model_dir, device, options)
    utterances = list_inputs(args.data, trained)
    if trained.model.decoder is None:
        logging.info("no decoder in this model: CTC's best path, without search")
    plan = plan_batches(trained, options, [item.frames for item in utterances])
    batches = [[utterances[index] for index in batch] for batch in plan]
    recogniser = Recogniser(trained, options)
    profile = Profile(device)
    with lock_folder(args.output_dir):
        warm_up(recogniser, batches[0][0])
        with ExitStack() as watched:
            if args.profile:
                watched.enter_context(profile.watching(trained))
                watched.enter_context(profile.part("all else"))
            recognised = decode(recogniser, batches, len(utterances))
        lost = {u.key for u in utterances} - {result.key for result in recognised}
        if lost or len(recognised) != len(utterances):
            raise AssertionError(f"in {len(utterances)}, out {len(recognised)}: {lost}")
        efficiency = summarise(recognised, recogniser)
        tokens = trained.model.token_list
        write_output(args.output_dir, recognised, tokens, trained.to_text, efficiency)
    if args.profile:
        print(profile.table() + "\n")
    print(table(efficiency))
    print(
        f"utterances in {len(utterances)}, out {len(recognised)}; {flags(recognised)}"
    )


def warm_up(recogniser: Recogniser, utterance: Input) -> None:
    """Decode one utterance, so that one-time costs are not measured."""
    import torch

    from espnet_mtla.recognise.inputs import load_input
    from espnet_mtla.recognise.recogniser import Costs

    trained = recogniser.trained
    recogniser([load_input(utterance, trained)])
    recogniser.costs = Costs()
    if trained.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def decode(
    recogniser: Recogniser, batches: list[list[Input]], count: int
) -> list[Recognised]:
    """Decode all batches; log the progress from time to time."""
    from espnet_mtla.recognise.inputs import load_input

    recognised: list[Recognised] = []
    logged = time.monotonic()
    for batch in batches:
        recognised += recogniser([load_input(u, recogniser.trained) for u in batch])
        if time.monotonic() - logged > PROGRESS_SECONDS:
            logged = time.monotonic()
            logging.info("decoded %d of %d utterances", len(recognised), count)
    return recognised


def flags(recognised: list[Recognised]) -> str:
    """Return the number of utterances with each flag of utterances.jsonl."""
    from espnet_mtla.recognise.output import utterance_record

    rows = [utterance_record(result)["flags"] for result in recognised]
    return ", ".join(f"{name} {sum(row[name] for row in rows)}" for name in rows[0])


if __name__ == "__main__":
    run(main)

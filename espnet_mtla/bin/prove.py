"""Check on your model and data that different ways give the same result.

Compares decoding with and without cache, alone and in a batch, with beam 1 and
greedily, by the recipe's command, Speech2Text and generate(), each back-end with its
reference, and the cache with its formula. Prints a table; the exit code is 1 if any two
differ. Computes in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_config_options, read_options
from espnet_mtla.settings.checks import count

CHECKS = ("batch", "cache", "greedy", "formula", "speech2text", "generate", "kernel")
"""Named here too, so that --help need not import torch; a test compares the names."""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="espnet-mtla prove",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="experiment folder, packed folder, or owner/name on the hub")
    add("data", type=Path, help="data folder: wav.scp, perhaps segments")
    add("--num_utts", type=count, default=20, help="utterances (default: 20)")
    add("--batch_size", type=count, default=8, help="in a batch (default: 8)")
    add("--only", nargs="+", choices=CHECKS, default=[], help="make these checks alone")
    add_config_options(parser)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    options = read_options(args)
    if options.dtype != "float32":
        raise UserError(
            f"--dtype {options.dtype}: its rounding would hide errors; use float32"
        )

    from espnet_mtla.diagnose.check_result import as_table
    from espnet_mtla.diagnose.prove import Prover
    from espnet_mtla.recognise.inputs import list_inputs, load_input
    from espnet_mtla.recognise.load import TrainedModel, choose_device
    from espnet_mtla.share.hub import find_model

    folder = find_model(args.model)
    trained = TrainedModel.from_folder(folder, choose_device(args.ngpu), options)
    chosen = list_inputs(args.data, trained)[: args.num_utts]
    inputs = [load_input(item, trained) for item in chosen]
    prover = Prover(trained, options, inputs, args.batch_size, folder)
    results = list(prover.results(args.only))
    print(as_table(results))
    failed = [result.check for result in results if result.fails]
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} fail: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)

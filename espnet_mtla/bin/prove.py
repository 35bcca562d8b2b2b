"""Prove on your own model and data that every way to a result gives the same one.

Cached and uncached decoding, an utterance alone and in a batch, beam 1 and greedy, the
recipe's command, Speech2Text and generate(), each kernel and its reference, the cache
and its formula: a table, and exit code 1 where any two differ. Computed in float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, read_options


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.prove",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="experiment folder, packed folder, or owner/name on the hub")
    add("data", type=Path, help="data folder: wav.scp, perhaps segments")
    add("--num_utts", type=int, default=20, help="compared (default: 20)")
    add("--batch_size", type=int, default=8, help="of a batch (default: 8)")
    add("--ngpu", type=int, choices=(0, 1), default=0, help="0: CPU (default), 1: GPU")
    add("--config", type=Path, help="YAML with any of the decoding options below")
    add_decoding_options(parser)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    options = read_options(args)
    if options.dtype != "float32":
        raise UserError(
            f"--dtype {options.dtype}: rounding would hide what is looked for; float32"
        )
    for name in ("num_utts", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: at least 1 is needed")

    from espnet_mtla.diagnose.finding import as_table
    from espnet_mtla.diagnose.prove import Prover
    from espnet_mtla.recognise.inputs import list_inputs, load_input
    from espnet_mtla.recognise.load import choose_device, load_model
    from espnet_mtla.share.hub import find_model

    folder = find_model(args.model)
    trained = load_model(folder, choose_device(args.ngpu), options)
    chosen = list_inputs(args.data, trained)[: args.num_utts]
    inputs = [load_input(item, trained) for item in chosen]
    prover = Prover(trained, options, inputs, args.batch_size, folder)
    findings = list(prover.findings())
    print(as_table(findings))
    failed = [found.check for found in findings if found.fails]
    if failed:
        raise UserError(f"{len(failed)} of {len(findings)} fail: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)

"""Write a data folder with each utterance once for every speed factor.

Keys and speakers become spFACTOR-NAME; those of factor 1 do not change. The table
utt2speed has the factors, and format_audio changes the audio.
"""

from __future__ import annotations

import argparse
import logging

from espnet_mtla.bin.cli import command_parser, run


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("perturb_speed", __doc__)
    parser.add_argument("input", help="data folder to read")
    parser.add_argument("output", help="data folder to write; replaced as a whole")
    parser.add_argument(
        "--factors",
        nargs="+",
        default=["0.9", "1.0", "1.1"],
        metavar="F",
        help="speed factors; audio of n seconds becomes n / F seconds",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.perturb import perturb_speed

    folder = perturb_speed(args.input, args.output, args.factors)
    count = len(folder.utterances)
    logging.info(
        "%s: %d utterances = %d x %d factors",
        *(args.output, count, count // len(args.factors), len(args.factors)),
    )


if __name__ == "__main__":
    run(main)

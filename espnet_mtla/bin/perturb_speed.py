"""Write a data folder in which each utterance stands once a speed factor."""

from __future__ import annotations

import argparse
import logging

from espnet_mtla.bin.cli import run


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.perturb_speed",
        description=f"{__doc__} Keys and speakers become spFACTOR-NAME (factor 1 keeps "
        "them). The sound itself is changed by format_audio, which reads utt2speed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("input", help="data folder to read")
    parser.add_argument("output", help="data folder to write; replaced as a whole")
    parser.add_argument(
        "--factors",
        nargs="+",
        default=["0.9", "1.0", "1.1"],
        metavar="F",
        help="speeds; a sound of n seconds lasts n / F",
    )
    return parser


def main() -> None:
    """Run the command."""
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

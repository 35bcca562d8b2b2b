"""Leave out utterances with an empty text, or too short or too long ones."""

from __future__ import annotations

import argparse

from espnet_mtla.bin.cli import run


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.filter_data",
        description=f"{__doc__} Prints how many for which reason and lists them in "
        "OUTPUT/dropped. Sound is not copied: wav.scp goes on pointing to it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("input", help="data folder to read, written by format_audio")
    parser.add_argument("output", help="data folder to write; replaced as a whole")
    parser.add_argument("--min_seconds", type=float, default=0.1, help="least length")
    parser.add_argument("--max_seconds", type=float, default=30.0, help="most length")
    parser.add_argument(
        "--max_chars", type=int, help="most characters of a text; none is no limit"
    )
    parser.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="keep utterances with an empty text, as in a test set",
    )
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.filter import Limits, filter_data

    limits = Limits(
        args.min_seconds, args.max_seconds, args.max_chars, args.allow_empty_text
    )
    filter_data(args.input, args.output, limits)


if __name__ == "__main__":
    run(main)

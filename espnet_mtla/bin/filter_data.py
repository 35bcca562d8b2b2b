"""Drop utterances with an empty text, and those that are too short or too long.

The number of utterances dropped for each reason is printed, and their keys are listed
in OUTPUT/dropped. Audio is not copied: wav.scp refers to the same files.
"""

from __future__ import annotations

import argparse

from espnet_mtla.bin.cli import command_parser, run


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("filter_data", __doc__)
    parser.add_argument("input", help="data folder to read, written by format_audio")
    parser.add_argument("output", help="data folder to write; replaced as a whole")
    parser.add_argument(
        "--min_seconds", type=float, default=0.1, help="shortest utterance"
    )
    parser.add_argument(
        "--max_seconds", type=float, default=30.0, help="longest utterance"
    )
    parser.add_argument(
        "--max_chars", type=int, help="longest text in characters; default: no limit"
    )
    parser.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="keep utterances with an empty text, as in a test set",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.filter import Limits, filter_data

    limits = Limits(
        args.min_seconds, args.max_seconds, args.max_chars, args.allow_empty_text
    )
    filter_data(args.input, args.output, limits)


if __name__ == "__main__":
    run(main)

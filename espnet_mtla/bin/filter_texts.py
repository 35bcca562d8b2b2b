"""Check pairs of texts, drop pairs with an empty text, and truncate long sources.

For tasks without audio, such as summarisation. The counts are printed.
"""

from __future__ import annotations

import argparse

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("filter_texts", __doc__)
    parser.add_argument("input", help="folder with the two tables")
    parser.add_argument("output", help="folder to write")
    parser.add_argument(
        "--source_text", default="text.source", help="table of source texts"
    )
    parser.add_argument("--target_text", default="text", help="table of target texts")
    parser.add_argument(
        "--max_words",
        type=int,
        help="truncate sources to so many words; default: no limit",
    )
    parser.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="keep pairs with an empty target, as in a test set",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.pairs import filter_pairs

    if args.max_words is not None and args.max_words < 1:
        raise UserError(f"--max_words {args.max_words}: at least 1 is needed")
    names = (args.source_text, args.target_text)
    filter_pairs(args.input, args.output, names, args.max_words, args.allow_empty_text)


if __name__ == "__main__":
    run(main)

"""Check pairs of texts, drop those with an empty one, cut long sources; count all."""

from __future__ import annotations

import argparse

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.filter_texts",
        description=f"{__doc__} For tasks without sound, such as summarisation.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("input", help="folder with the two tables")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--source_text", default="text.source", help="table to read")
    parser.add_argument("--target_text", default="text", help="table it becomes")
    parser.add_argument("--max_words", type=int, help="words kept of each source")
    parser.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="keep pairs with an empty target, as in a test set",
    )
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.pairs import filter_pairs

    if args.max_words is not None and args.max_words < 1:
        raise UserError(f"--max_words {args.max_words}: must be at least 1")
    names = (args.source_text, args.target_text)
    filter_pairs(args.input, args.output, names, args.max_words, args.allow_empty_text)


if __name__ == "__main__":
    run(main)

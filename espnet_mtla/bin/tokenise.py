"""Make a token list, and a sentencepiece model where one is needed, from text."""

from __future__ import annotations

import argparse
import dataclasses

from espnet_mtla.bin.cli import run
from espnet_mtla.data.tokens import (
    TOKEN_TYPES,
    TokenOptions,
    read_lines,
    read_symbols,
    tokenise,
)


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    default = {field.name: field.default for field in dataclasses.fields(TokenOptions)}
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.tokenise",
        description=f"{__doc__} Writes OUTPUT_DIR/tokens.txt (<blank>, <unk>, tokens, "
        "<sos/eos>) and, for bpe and unigram, OUTPUT_DIR/bpe.model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--text", nargs="+", required=True, help="tables 'key text', Kaldi's way"
    )
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument(
        "--token_type",
        choices=TOKEN_TYPES,
        default=default["token_type"],
        help="bpe and unigram are sentencepiece's",
    )
    parser.add_argument(
        "--vocab_size",
        type=int,
        default=default["vocab_size"],
        help="lines of tokens.txt; exact for bpe and unigram, a limit for char, word",
    )
    parser.add_argument(
        "--min_count",
        type=int,
        default=default["min_count"],
        help="char and word: rarer tokens are left to <unk>",
    )
    parser.add_argument(
        "--non_linguistic_symbols",
        metavar="FILE",
        help="symbols that are never split, one a line",
    )
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    symbols = args.non_linguistic_symbols
    options = TokenOptions(
        token_type=args.token_type,
        vocab_size=args.vocab_size,
        min_count=args.min_count,
        symbols=read_symbols(symbols) if symbols else (),
    )
    tokenise(read_lines(args.text), args.output_dir, options)


if __name__ == "__main__":
    run(main)

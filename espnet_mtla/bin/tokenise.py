"""Make a token list from text, and a sentencepiece model for bpe and unigram.

Writes OUTPUT_DIR/tokens.txt (<blank>, <unk>, tokens, <sos/eos>) and, for bpe and
unigram, OUTPUT_DIR/bpe.model. For hf it copies a Transformers tokenizer to
OUTPUT_DIR/tokenizer, and lists its tokens, one for each row of its model's embedding.
"""

from __future__ import annotations

import argparse
import dataclasses

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.data.tokens import (
    TOKEN_TYPES,
    TYPE_ALIASES,
    TokenOptions,
    read_lines,
    read_symbols,
    tokenise,
)


def get_parser() -> argparse.ArgumentParser:
    default = {field.name: field.default for field in dataclasses.fields(TokenOptions)}
    parser = command_parser("tokenise", __doc__)
    parser.add_argument(
        "--text", nargs="+", required=True, help="Kaldi tables of lines 'key text'"
    )
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument(
        "--token_type",
        type=lambda name: TYPE_ALIASES.get(name, name),
        choices=TOKEN_TYPES,
        default=default["token_type"],
        help="bpe and unigram are trained by sentencepiece; hf: see --hf_tokenizer",
    )
    parser.add_argument(
        "--vocab_size",
        type=int,
        default=default["vocab_size"],
        help="lines of tokens.txt; exact for bpe and unigram, else a limit",
    )
    parser.add_argument(
        "--min_count",
        type=int,
        default=default["min_count"],
        help="char and word: rarer tokens become <unk>",
    )
    parser.add_argument(
        "--hf_tokenizer",
        metavar="NAME",
        help="hf: a Transformers tokenizer: folder (of its model, too) or hub name",
    )
    parser.add_argument(
        "--non_linguistic_symbols",
        metavar="FILE",
        help="file of symbols that are never split, one per line",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    symbols = args.non_linguistic_symbols
    options = TokenOptions(
        token_type=args.token_type,
        vocab_size=args.vocab_size,
        min_count=args.min_count,
        symbols=read_symbols(symbols) if symbols else (),
        hf_tokenizer=args.hf_tokenizer,
    )
    tokenise(read_lines(args.text), args.output_dir, options)


if __name__ == "__main__":
    run(main)

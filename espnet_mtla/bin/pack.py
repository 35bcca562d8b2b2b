"""Pack a trained model into one folder that works without recipe and checkout.

The folder holds weights (safetensors), configuration, tokens, statistics, decoding
settings and a model card with the experiment's scores. It is loaded once as a check.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("pack", __doc__)
    add = parser.add_argument
    add(
        "--model_dir",
        type=Path,
        required=True,
        help="experiment folder: config.yaml, model.pth, and scores if there are any",
    )
    add("--output_dir", type=Path, required=True, help="folder to write")
    add(
        "--config",
        type=Path,
        help="decoding YAML to include; default: built-in settings",
    )
    for name, help in (
        ("lm", "language model to include: its folder"),
        ("ngram", "ARPA file to include"),
        ("hotwords", "file of phrases to include"),
    ):
        add(f"--{name}", default=argparse.SUPPRESS, help=help)
    add("--name", help="OWNER/NAME in the card; default: the folder's name")
    add("--license", help="licence in the card, such as apache-2.0")
    add("--language", help="language in the card, such as en")
    add("--about", help="one or two sentences in the card, on the training data")
    return parser


def main() -> None:
    args = get_parser().parse_args()

    from espnet_mtla.recognise.options import read_options
    from espnet_mtla.share.card import Card, check_name
    from espnet_mtla.share.pack import pack

    name = check_name(args.name or args.output_dir.resolve().name)
    card = Card(name, args.license, args.language, args.about)
    options = read_options(args)
    written = pack(args.model_dir, args.output_dir, options, card)
    size = sum(path.stat().st_size for path in args.output_dir.rglob("*"))
    print(f"{args.output_dir}: {size / 1e6:.1f} MB, loads: {', '.join(written)}")


if __name__ == "__main__":
    run(main)

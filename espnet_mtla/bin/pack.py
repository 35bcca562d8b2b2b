"""Pack a trained model into one folder that needs neither recipe nor checkout.

Writes weights (safetensors), configuration, tokens, statistics, decoding settings and a
model card with the experiment's scores, then loads the result once to check it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.pack",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model_dir",
        type=Path,
        required=True,
        help="experiment folder: config.yaml, model.pth, and scores if there are any",
    )
    add("--output_dir", type=Path, required=True, help="folder to write")
    add("--config", type=Path, help="decoding YAML to go with it; ours if not given")
    add("--name", help="as the card calls it, owner/name; the folder's if not given")
    add("--license", help="of the model, such as apache-2.0, for the card")
    add("--language", help="such as en, for the card")
    add("--about", help="a sentence or two on what it was trained on, for the card")
    return parser


def main() -> None:
    args = get_parser().parse_args()

    from espnet_mtla.recognise.options import read_options
    from espnet_mtla.share.card import Card, check_name
    from espnet_mtla.share.pack import pack

    name = check_name(args.name or args.output_dir.resolve().name)
    card = Card(name, args.license, args.language, args.about)
    options = read_options(argparse.Namespace(config=args.config))
    written = pack(args.model_dir, args.output_dir, options, card)
    size = sum(path.stat().st_size for path in args.output_dir.iterdir())
    print(f"{args.output_dir}: {size / 1e6:.1f} MB, loads: {', '.join(written)}")


if __name__ == "__main__":
    run(main)

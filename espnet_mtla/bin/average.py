"""Average the parameters of the best epochs into the model that is decoded with."""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("average", __doc__)
    add = parser.add_argument
    add(
        "--exp_dir",
        type=Path,
        required=True,
        help="experiment folder, written by train",
    )
    add(
        "--metric",
        default="valid.acc.max",
        help="criterion: PART.NAME.max or PART.NAME.min",
    )
    add("--nbest", type=int, default=5, help="epochs to average")
    return parser


def main() -> None:
    args = get_parser().parse_args()

    from espnet_mtla.settings.names import MODEL
    from espnet_mtla.task.average import Criterion, average

    metric = Criterion.parse(args.metric)
    epochs = average(args.exp_dir, metric, args.nbest)
    names = ", ".join(str(epoch) for epoch in epochs)
    print(f"{args.exp_dir / MODEL}: mean of epochs {names} by {args.metric}")


if __name__ == "__main__":
    run(main)

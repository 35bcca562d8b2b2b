"""Average the parameters of a training's best epochs into the model to decode with."""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="average",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--exp_dir", type=Path, required=True, help="folder that train wrote")
    add("--metric", default="valid.acc.max", help="PART.NAME.max or .min")
    add("--nbest", type=int, default=5, help="number of epochs")
    return parser


def main() -> None:
    options = build_parser().parse_args()

    from espnet_mtla.settings.names import MODEL
    from espnet_mtla.task.average import Metric, average

    metric = Metric.parse(options.metric)
    epochs = average(options.exp_dir, metric, options.nbest)
    names = ", ".join(str(epoch) for epoch in epochs)
    print(f"{options.exp_dir / MODEL}: mean of epochs {names} by {options.metric}")


if __name__ == "__main__":
    run(main)

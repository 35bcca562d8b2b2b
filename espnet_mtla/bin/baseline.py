"""Write the answers of a trivial system, in the form of a decoded set."""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run

NAMES = ("most_frequent", "majority", "first_sentence")


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.baseline",
        description=f"{__doc__} most_frequent: the commonest training text; majority: "
        "its commonest first word; first_sentence: that of the source.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("name", choices=NAMES, help="which system")
    add("--train", type=Path, required=True, help="training data folder")
    add("--data", type=Path, required=True, help="data folder to answer for")
    add("--target_text", default="text", help="table of texts in both")
    add("--source_text", default="", help="table of sources")
    add(
        "--output_dir",
        type=Path,
        required=True,
        help="folder to write 1best_recog/text in",
    )
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.folder import write_table
    from espnet_mtla.score.baseline import BASELINES, Question

    question = Question(args.train, args.data, args.target_text, args.source_text)
    answers = BASELINES[args.name](question)
    write_table(args.output_dir / "1best_recog" / "text", answers)
    key, text = next(iter(answers.items()))
    print(f"{args.name}: {len(answers)} answers; {key}: {text}")


if __name__ == "__main__":
    run(main)

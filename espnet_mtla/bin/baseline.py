"""Write the answers of a system without training, in the form of a decoded test set.

most_frequent answers with the most frequent training text, majority with its most
frequent first word, first_sentence with the first sentence of the source.
faster_whisper decodes the audio with Whisper: a reference, trained on other data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run

NAMES = ("most_frequent", "majority", "first_sentence", "faster_whisper")


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("baseline", __doc__)
    add = parser.add_argument
    add("name", choices=NAMES, help="system")
    add("--train", type=Path, required=True, help="training data folder")
    add("--data", type=Path, required=True, help="data folder to write answers for")
    add("--target_text", default="text", help="table of texts in both folders")
    add("--source_text", default="", help="table of source texts in both")
    add(
        "--whisper_model",
        default="base",
        help="faster_whisper: size of the model, or its folder in CTranslate2's format",
    )
    add(
        "--translate",
        action="store_true",
        help="faster_whisper: write English, whatever is spoken",
    )
    add(
        "--output_dir",
        type=Path,
        required=True,
        help="folder; answers are written to 1best_recog/text in it",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.table import write_table
    from espnet_mtla.score.baseline import BASELINES, Question
    from espnet_mtla.score.faster_whisper import Options

    question = Question(
        args.train,
        args.data,
        args.target_text,
        args.source_text,
        Options(args.whisper_model, args.translate),
    )
    answers = BASELINES[args.name](question)
    write_table(args.output_dir / "1best_recog" / "text", answers)
    key, text = next(iter(answers.items()))
    print(f"{args.name}: {len(answers)} answers; {key}: {text}")


if __name__ == "__main__":
    run(main)

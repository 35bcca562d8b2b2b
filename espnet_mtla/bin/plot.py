"""Draw what a model looks at, how models learned, or quality against cache bytes."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, given_options


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.plot", description=__doc__
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    shape = argparse.ArgumentDefaultsHelpFormatter

    one = kinds.add_parser(
        "attention",
        help="attention and merge weights of one utterance over its spectrogram",
        formatter_class=shape,
    )
    one.add_argument("model", help="experiment folder, packed folder, or owner/name")
    one.add_argument("sound", help="file with one utterance")
    one.add_argument("--layer", type=int, default=-1, help="from 0; -1 is the last")
    one.add_argument("--head", type=int, help="from 0; the mean of all if not given")
    add_decoding_options(one)

    curves = kinds.add_parser(
        "curves", help="learning curves of several trainings", formatter_class=shape
    )
    curves.add_argument("exp", nargs="+", type=Path, help="experiment folders")
    curves.add_argument(
        "--names", nargs="+", default=["loss", "acc"], help="statistics, a panel each"
    )

    quality = kinds.add_parser(
        "quality",
        help="quality against cache bytes, and time, of all attention types",
        formatter_class=shape,
    )
    quality.add_argument(
        "exp", nargs="+", type=Path, help="decoded, scored experiments"
    )
    quality.add_argument("--metric", default="wer", help="which score_METRIC folders")
    for kind in (one, curves, quality):
        kind.add_argument("--output", type=Path, required=True, help="PNG to write")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.output.suffix != ".png":
        raise UserError(f"--output {args.output}: the name must end in .png")
    # It tells of its font cache the first time, which is nothing to the user.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    {"attention": attention, "curves": curves, "quality": quality}[args.kind](args)
    print(f"written: {args.output}")


def attention(args: argparse.Namespace) -> None:
    from espnet_mtla.plot.utterance import draw, look, save
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.speech2text import Speech2Text

    speech2text = Speech2Text.from_pretrained(args.model, **given_options(args))
    clip = speech2text.reader.clip(args.sound)
    recogniser = Recogniser(speech2text.trained, speech2text.options)
    picture = look(recogniser, Path(clip.key).name, clip.read())
    save(draw(picture, args.layer, args.head), args.output)
    print(picture.text)


def curves(args: argparse.Namespace) -> None:
    from espnet_mtla.plot.curves import draw, read_stats
    from espnet_mtla.plot.utterance import save

    runs = {folder.resolve().name: read_stats(folder) for folder in args.exp}
    if len(runs) < len(args.exp):
        raise UserError("two experiments have one name; give each once")
    save(draw(runs, args.names), args.output)


def quality(args: argparse.Namespace) -> None:
    from espnet_mtla.score import plot
    from espnet_mtla.score.metric import METRICS
    from espnet_mtla.score.results import collect

    if args.metric not in METRICS:
        raise UserError(f"--metric {args.metric}: one of {', '.join(METRICS)}")
    plot.save(collect(args.exp, metric=args.metric), args.output)


if __name__ == "__main__":
    run(main)

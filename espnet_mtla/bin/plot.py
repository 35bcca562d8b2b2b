"""Draw attention of one utterance, learning curves, or quality against cache size."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from espnet_mtla.bin.cli import HelpFormatter, command_parser, run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, explicit_options


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("plot", __doc__)
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    form = HelpFormatter

    attention = figures.add_parser(
        "attention",
        help="input features, merge weights and attention of one utterance",
        formatter_class=form,
    )
    add = attention.add_argument
    add("model", help="experiment folder, packed folder, or OWNER/NAME on the hub")
    add("sound", help="audio file with one utterance")
    add("--layer", type=int, default=-1, help="layer to draw, from 0; -1 is the last")
    add("--head", type=int, help="head to draw, from 0; default: the mean of all heads")
    add_decoding_options(attention)

    curves = figures.add_parser(
        "curves", help="learning curves of several trainings", formatter_class=form
    )
    add = curves.add_argument
    add("exp", nargs="+", type=Path, help="experiment folders")
    names = ["loss", "acc"]
    add("--names", nargs="+", default=names, help="statistics, one panel for each")

    quality = figures.add_parser(
        "quality",
        help="quality against cache bytes, and decoding time, of several experiments",
        formatter_class=form,
    )
    add = quality.add_argument
    add("exp", nargs="+", type=Path, help="decoded and scored experiment folders")
    add("--metric", default="wer", help="scores to read, from the folders score_METRIC")
    for figure in (attention, curves, quality):
        figure.add_argument("--output", type=Path, required=True, help="PNG to write")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.output.suffix != ".png":
        raise UserError(f"--output {args.output}: the name must end in .png")
    # Matplotlib logs at its first start that it builds a font cache.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    {"attention": attention, "curves": curves, "quality": quality}[args.figure](args)
    print(f"written: {args.output}")


def attention(args: argparse.Namespace) -> None:
    """Decode one utterance and draw where its tokens attend; print its text."""
    from espnet_mtla.plot.figure import save_png
    from espnet_mtla.plot.utterance import decode_with_maps, draw_utterance
    from espnet_mtla.recognise.recogniser import Recogniser
    from espnet_mtla.speech2text import Speech2Text

    speech2text = Speech2Text.from_pretrained(args.model, **explicit_options(args))
    clip = speech2text.reader.clip(args.sound)
    recogniser = Recogniser(speech2text.trained, speech2text.options)
    utterance = decode_with_maps(recogniser, Path(clip.key).name, clip.read())
    save_png(draw_utterance(utterance, args.layer, args.head), args.output)
    print(utterance.text)


def curves(args: argparse.Namespace) -> None:
    """Draw the statistics that the trainer recorded in each experiment."""
    from espnet_mtla.plot.curves import draw_curves, read_stats
    from espnet_mtla.plot.figure import save_png

    runs = {exp_dir.resolve().name: read_stats(exp_dir) for exp_dir in args.exp}
    if len(runs) < len(args.exp):
        raise UserError("two experiments have one name; give each once")
    save_png(draw_curves(runs, args.names), args.output)


def quality(args: argparse.Namespace) -> None:
    """Draw the comparison of the experiments' scores."""
    from espnet_mtla.plot.comparison import save_comparison
    from espnet_mtla.score.metric import METRICS
    from espnet_mtla.score.results import collect

    if args.metric not in METRICS:
        raise UserError(f"--metric {args.metric}: one of {', '.join(METRICS)}")
    save_comparison(collect(args.exp, metric=args.metric), args.output)


if __name__ == "__main__":
    run(main)

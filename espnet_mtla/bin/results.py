"""Compare decoded experiments of several attention types in tables and a plot."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError
from espnet_mtla.score.metric import METRICS

if TYPE_CHECKING:
    from espnet_mtla.score.results import Table


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("results", __doc__)
    add = parser.add_argument
    add(
        "--exp",
        nargs="+",
        type=Path,
        required=True,
        metavar="EXP",
        help="experiment folders exp/TASK_TAG_ATTENTION; the one ending in mha, or else"
        " the first, is the baseline",
    )
    add(
        "--decodes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="decode settings (EXP/decode_NAME); default: all in the folder",
    )
    add(
        "--sets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="test sets (EXP/decode_NAME/SET); default: all in the folder",
    )
    add("--metric", choices=METRICS, default="wer", help="scores to show")
    add(
        "--baselines",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="scored folders of the baseline command, FOLDER/SET; rows of each table",
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="RESULTS.md",
        help="Markdown file to write; a .json and a .png of that name go beside it",
    )
    add(
        "--readme",
        type=Path,
        help="file to update: the text between the lines <!-- results:begin --> and"
        " <!-- results:end --> is replaced",
    )
    add(
        "--partial",
        action="store_true",
        help="show incomplete results and mark what is missing",
    )
    return parser


def write_results(args: argparse.Namespace, tables: list[Table]) -> list[Path]:
    """Write tables, figures and plot; return the paths written.

    The input is validated before the first file is written.
    """
    # Matplotlib logs at its first start that it builds a font cache.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from espnet_mtla.plot.comparison import save_comparison
    from espnet_mtla.score.provenance import provenance
    from espnet_mtla.score.render import (
        as_json,
        document,
        readme_text,
        section,
        write_text,
    )

    source = provenance()
    picture, figures = (args.output.with_suffix(end) for end in (".png", ".json"))
    readme = None
    if args.readme:  # without the plot, whose folder git usually ignores
        readme = readme_text(args.readme, section(tables, source, 3))
    save_comparison(tables, picture)
    content = as_json(tables, source)
    write_text(figures, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    write_text(args.output, document(tables, source, picture.name))
    if readme is None:
        return [args.output, figures, picture]
    write_text(args.readme, readme)
    return [args.output, figures, picture, args.readme]


def main() -> None:
    args = get_parser().parse_args()
    if args.output.suffix != ".md":
        raise UserError(f"--output {args.output}: the name must end in .md")
    from espnet_mtla.score.render import terminal
    from espnet_mtla.score.results import collect

    tables = collect(
        args.exp, args.decodes, args.sets, args.metric, args.partial, args.baselines
    )
    written = write_results(args, tables)
    print(terminal(tables))
    print(f"written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    run(main)

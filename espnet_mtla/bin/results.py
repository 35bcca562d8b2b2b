"""Compare attention types over decoded experiments: tables and a plot."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.score.metric import METRICS

if TYPE_CHECKING:
    from espnet_mtla.score.results import Table


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.results",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--exp",
        nargs="+",
        type=Path,
        required=True,
        metavar="EXP",
        help="experiment folders exp/TASK_TAG_ATTENTION; the one ending in mha, or else"
        " the first, is the base of the comparison",
    )
    add(
        "--decodes",
        nargs="+",
        default=[],
        metavar="NAME",
        help="decode settings (EXP/decode_NAME); all that are found if empty",
    )
    add(
        "--sets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="test sets (EXP/decode_NAME/SET); all that are found if empty",
    )
    add("--metric", choices=METRICS, default="wer", help="which scores")
    add(
        "--baselines",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders of the baseline command, FOLDER/SET, scored; rows of each table",
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="RESULTS.md",
        help="the Markdown file; a .json and a .png of that name go beside it",
    )
    add(
        "--readme",
        type=Path,
        help="file whose text between the lines <!-- results:begin --> and"
        " <!-- results:end --> is replaced",
    )
    add(
        "--partial",
        action="store_true",
        help="show what is there and mark what is missing",
    )
    return parser


def write(args: argparse.Namespace, tables: list[Table]) -> list[Path]:
    """Write all files; whatever can be wrong with the input is found before the first.

    Returns the paths written.
    """
    # It tells of its font cache the first time, which is nothing to the user.
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

    made = provenance()
    picture, figures = (args.output.with_suffix(end) for end in (".png", ".json"))
    readme = None
    if args.readme:  # without the plot: its folder is seldom one that git keeps
        readme = readme_text(args.readme, section(tables, made, 3))
    save_comparison(tables, picture)
    content = as_json(tables, made)
    write_text(figures, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    write_text(args.output, document(tables, made, picture.name))
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
    written = write(args, tables)
    print(terminal(tables))
    print(f"written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    run(main)

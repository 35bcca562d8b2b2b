"""Check a data folder, print the first bad lines, and repair simple faults.

Checked are the byte order of keys, missing and duplicate keys, missing, unreadable and
truncated audio, empty texts, speakers, and segments.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.data.validate import Checks, Inspection


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("validate_data", __doc__)
    parser.add_argument("folder", help="data folder with wav.scp and text")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="sort the tables, write utt2spk and spk2utt, and drop incomplete "
        "utterances; the old tables are saved in FOLDER/.backup, reasons in "
        "FOLDER/dropped",
    )
    parser.add_argument("--no_text", action="store_true", help="do not require text")
    parser.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="accept empty texts, as in a test set",
    )
    parser.add_argument(
        "--drop_bad",
        action="store_true",
        help="print recordings that cannot be read, without an error: format_audio "
        "--drop_bad leaves them out",
    )
    parser.add_argument("--no_audio", action="store_true", help="do not open audio")
    parser.add_argument(
        "--max_lines",
        type=int,
        default=10,
        help="lines to print for each type of problem",
    )
    parser.add_argument(
        "--nj", type=int, default=min(4, os.cpu_count() or 1), help="threads"
    )
    return parser


def fix(inspection: Inspection, checks: Checks, max_lines: int) -> Inspection:
    """Repair a folder, print what was dropped, and return a new inspection."""
    from espnet_mtla.data.repair import repair
    from espnet_mtla.data.validate import inspect, print_problems

    repaired = repair(inspection)
    print(f"repaired {inspection.path}; backup: {repaired.backup}")
    for reason, count in Counter(repaired.dropped.values()).most_common():
        print(f"dropped {count}: {reason}")
    total = repaired.kept + len(repaired.dropped)
    print(f"in {total} = kept {repaired.kept} + dropped {len(repaired.dropped)} keys")
    again = inspect(inspection.path, checks)
    print_problems(again.problems, max_lines)
    return again


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.validate import UNREADABLE, Checks, inspect, print_problems

    if args.nj < 1 or args.max_lines < 1:
        raise UserError("--nj and --max_lines must be at least 1")
    checks = Checks(not args.no_text, not args.no_audio, args.nj, args.allow_empty_text)
    inspection = inspect(args.folder, checks)
    print_problems(inspection.problems, args.max_lines)
    speakerless = not {"utt2spk", "spk2utt"} <= inspection.rows.keys()
    if args.fix and (inspection.problems or speakerless):
        inspection = fix(inspection, checks, args.max_lines)
    elif speakerless:
        logging.info("utt2spk or spk2utt is missing; --fix writes them")
    left_out = UNREADABLE if args.drop_bad else ()
    bad = [problem for problem in inspection.problems if problem.what in left_out]
    count = len(inspection.problems) - len(bad)
    if count:
        raise UserError(
            f"{args.folder}: {count} problem{'s' * (count > 1)}; --fix sorts the "
            "tables, adds speakers and drops incomplete utterances"
        )
    hours = sum(inspection.seconds.values()) / 3600
    logging.info(
        "%s: %d utterances, %.2f hours of audio opened; %s",
        *(args.folder, len(inspection.rows[inspection.index]), hours),
        f"{len(bad)} cannot be read" if bad else "no problems",
    )


if __name__ == "__main__":
    run(main)

"""Check a data folder, name the first bad lines, and repair what is mechanical."""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.data.validate import Checks, Inspection


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.validate_data",
        description=f"{__doc__} Byte order, missing and double keys, missing or "
        "unreadable or truncated sound, empty texts, speakers, segments.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", help="data folder with wav.scp and text")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="sort, make utt2spk and spk2utt, drop utterances that lack something; "
        "the tables as they were go to .backup in the folder, reasons to its 'dropped'",
    )
    parser.add_argument("--no_text", action="store_true", help="text is not needed")
    parser.add_argument(
        "--allow_empty_text", action="store_true", help="as test sets may have them"
    )
    parser.add_argument("--no_audio", action="store_true", help="open no sound")
    parser.add_argument(
        "--max_lines", type=int, default=10, help="lines printed a kind of problem"
    )
    parser.add_argument(
        "--nj", type=int, default=min(4, os.cpu_count() or 1), help="threads"
    )
    return parser


def fix(found: Inspection, checks: Checks, max_lines: int) -> Inspection:
    """Repair, print the counts, and look at the folder again."""
    from espnet_mtla.data.validate import inspect, print_problems, repair

    done = repair(found)
    print(f"repaired {found.path}; as it was: {done.backup}")
    for reason, count in Counter(done.dropped.values()).most_common():
        print(f"dropped {count}: {reason}")
    total = done.kept + len(done.dropped)
    print(f"in {total} = kept {done.kept} + dropped {len(done.dropped)} keys")
    again = inspect(found.path, checks)
    print_problems(again.problems, max_lines)
    return again


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.validate import Checks, inspect, print_problems

    if args.nj < 1 or args.max_lines < 1:
        raise UserError("--nj and --max_lines must be at least 1")
    checks = Checks(not args.no_text, not args.no_audio, args.nj, args.allow_empty_text)
    found = inspect(args.folder, checks)
    print_problems(found.problems, args.max_lines)
    speakerless = not {"utt2spk", "spk2utt"} <= found.rows.keys()
    if args.fix and (found.problems or speakerless):
        found = fix(found, checks, args.max_lines)
    elif speakerless:
        logging.info("utt2spk or spk2utt is missing; --fix makes them")
    if found.problems:
        count = len(found.problems)
        raise UserError(
            f"{args.folder}: {count} problem{'s' * (count > 1)}; --fix repairs order "
            "and speakers and drops utterances that lack something"
        )
    hours = sum(found.seconds.values()) / 3600
    logging.info(
        "%s: %d utterances, %.2f hours of sound opened; no problem found",
        *(args.folder, len(found.rows[found.index]), hours),
    )


if __name__ == "__main__":
    run(main)

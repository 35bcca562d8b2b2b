"""Look at this installation: what is here, which back-end will be used and why.

Takes about ten seconds, checks the arithmetic, compares cached with uncached text if
Transformers is installed, times a decoding step, and prints a report to paste into an
issue. Needs torch alone. Exit code 1 where a check fails.
"""

from __future__ import annotations

import argparse
import logging

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main() -> None:
    get_parser().parse_args()

    from espnet_mtla.diagnose.doctor import report

    # The report tells the choice of back-ends itself, and in order.
    logger = logging.getLogger("espnet_mtla")
    level = logger.level
    logger.setLevel(logging.WARNING)
    failed = []
    try:
        for text, findings in report():
            print(text, flush=True)
            failed += [found.check for found in findings if found.fails]
    finally:
        logger.setLevel(level)
    if failed:
        raise UserError(f"wrong on this machine: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)

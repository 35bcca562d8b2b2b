"""Check this installation: packages, back-ends and correctness.

Prints versions, the back-end of each attention type and why, the results of checks of
the decoder and of text generation (if Transformers is installed), and the time of a
decoding step: a report for an issue. Takes about ten seconds and needs torch alone. The
exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import logging

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="espnet-mtla doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main() -> None:
    get_parser().parse_args()

    from espnet_mtla.diagnose.doctor import sections

    # The report shows the chosen back-ends itself; their log lines would interrupt it.
    logger = logging.getLogger("espnet_mtla")
    level = logger.level
    logger.setLevel(logging.WARNING)
    failed = []
    try:
        for text, results in sections():
            print(text, flush=True)
            failed += [result.check for result in results if result.fails]
    finally:
        logger.setLevel(level)
    if failed:
        raise UserError(f"wrong on this machine: {', '.join(failed)}")


if __name__ == "__main__":
    run(main)

"""Score hypotheses against references: error rates, intervals, aligned texts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.score.metric import METRICS, Report, read_request, resolve


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return int(text)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.score",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("metric", choices=METRICS, help="what is counted")
    add("--ref", required=True, metavar="FILE", help="references, Kaldi text")
    add("--hyp", required=True, metavar="FILE", help="hypotheses, Kaldi text")
    add(
        "--compare",
        metavar="OTHER_HYP",
        help="hypotheses of another system for the same references: is the"
        " difference real?",
    )
    add(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="where score.json, utterances.jsonl and result.txt go; without it the"
        " result is only printed",
    )
    add("--resamples", type=positive, default=1000, help="draws of the bootstrap")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--confusions", type=positive, default=10, help="errors shown of each kind")
    return parser


def write(report: Report, folder: Path) -> None:
    """Write the report; score.json, written last, says that the others are complete."""
    from espnet_mtla.data.atomic import atomic_file

    (folder / "score.json").unlink(missing_ok=True)
    with atomic_file(folder / "result.txt") as stream:
        stream.write(report.listing)
    with atomic_file(folder / "utterances.jsonl") as stream:
        for utterance in report.utterances:
            stream.write(json.dumps(utterance, ensure_ascii=False) + "\n")
    with atomic_file(folder / "score.json") as stream:
        json.dump(report.summary, stream, ensure_ascii=False, indent=2)
        stream.write("\n")


def main() -> None:
    args = get_parser().parse_args()
    request = read_request(
        args.ref,
        args.hyp,
        args.compare,
        resamples=args.resamples,
        seed=args.seed,
        confusions=args.confusions,
    )
    report = resolve(args.metric)(request)
    report.summary.update(ref=args.ref, hyp=args.hyp)
    if args.compare:
        report.summary["compare"]["hyp"] = args.compare
    if args.output_dir:
        write(report, args.output_dir)
    print(report.terminal)
    if args.output_dir:
        print(
            f"\nwritten to {args.output_dir}: score.json, utterances.jsonl, result.txt"
        )


if __name__ == "__main__":
    run(main)

"""Score hypotheses against references: the metric, its interval, the worst errors.

wer and cer count errors of words and of characters. bleu is sacrebleu's BLEU and chrF
of cased, untokenised texts. intent reads the first word as the intent and the rest as
the transcript. rouge is rouge-score's ROUGE-1, -2 and -L.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.data.folder import DROPPED
from espnet_mtla.score.form import FORMATS
from espnet_mtla.score.metric import METRICS, Report, Request, score
from espnet_mtla.score.texts import read_request, whole_set


def positive(text: str) -> int:
    """Parse a whole number above 0, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return int(text)


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("score", __doc__)
    add = parser.add_argument
    add("metric", choices=METRICS, help="metric to compute")
    add(
        "--ref",
        required=True,
        nargs="+",
        metavar="FILE",
        help="references; bleu and rouge accept several files, one set each",
    )
    add("--hyp", required=True, metavar="FILE", help="hypotheses")
    add(
        "--format",
        choices=FORMATS,
        default="auto",
        help="kaldi: 'key text'; lines: paired by number; jsonl: objects with key (or"
        " id) and text; auto: jsonl for *.jsonl, else kaldi, or lines if no file can be"
        " kaldi and all have as many lines",
    )
    add("--ref_field", default="text", help="jsonl: field with the text of a reference")
    add(
        "--hyp_field", default="text", help="jsonl: field with the text of a hypothesis"
    )
    add(
        "--compare",
        metavar="OTHER_HYP",
        help="hypotheses of another system for the same references, to test whether the"
        " difference is significant",
    )
    add(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="folder for score.json, utterances.jsonl and result.txt; without it the"
        " result is only printed",
    )
    add("--resamples", type=positive, default=1000, help="bootstrap samples")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--confusions", type=positive, default=10, help="errors to list of each type")
    add("--lowercase", action="store_true", help="bleu: ignore case")
    add(
        "--tokenize",
        default=Request.tokenize,
        help="bleu: sacrebleu's tokeniser: 13a, intl, zh, ja-mecab, char, none ...",
    )
    add("--no_stem", action="store_true", help="rouge: do not apply Porter's stemmer")
    return parser


def write_report(report: Report, folder: Path) -> None:
    """Write the report; score.json is written last and marks the others complete."""
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
        args.format,
        (args.ref_field, args.hyp_field),
        resamples=args.resamples,
        seed=args.seed,
        confusions=args.confusions,
        lowercase=args.lowercase,
        tokenize=args.tokenize,
        stem=not args.no_stem,
    )
    report = score(args.metric, request)
    ref = args.ref[0] if len(args.ref) == 1 else args.ref
    whole = whole_set(args.ref[0], request.keys)
    report.summary.update(ref=ref, hyp=args.hyp, whole_set=whole)
    if args.compare:
        report.summary["compare"]["hyp"] = args.compare
    if args.output_dir:
        write_report(report, args.output_dir)
    print(report.terminal)
    if whole > len(request.keys):
        print(
            f"{len(request.keys)} of {whole} utterances were scored: "
            f"{Path(args.ref[0]).parent / DROPPED} lists those left out"
        )
    if args.output_dir:
        print(
            f"\nwritten to {args.output_dir}: score.json, utterances.jsonl, result.txt"
        )


if __name__ == "__main__":
    run(main)

"""Check that a model decodes utterances alone exactly as it does in batches.

Decodes the first NUM_UTTS utterances one by one and in batches, compares the tokens and
scores of every hypothesis, and prints a table of differences. Exit code 1 if there is
any: then padding leaks somewhere in the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_options, read_options

if TYPE_CHECKING:
    from espnet_mtla.recognise.recogniser import Recognised


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.check_batching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--num_utts", type=int, default=32, help="compared (default: 32)"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=32,
        help="utterances of a batch here; batch_frames is not used (default: 32)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest relative difference of a score (default: 1e-4)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    options = read_options(args)
    for name in ("num_utts", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: at least 1 is needed")

    from espnet_mtla.recognise.inputs import list_inputs, load_input
    from espnet_mtla.recognise.load import choose_device, load_model
    from espnet_mtla.recognise.recogniser import Recogniser

    trained = load_model(args.model_dir, choose_device(args.ngpu), options)
    inputs = list_inputs(args.data, trained)[: args.num_utts]
    sounds = [load_input(item, trained) for item in inputs]
    recogniser = Recogniser(trained, options)
    alone = [result for sound in sounds for result in recogniser([sound])]
    together = []
    for first in range(0, len(sounds), args.batch_size):
        together += recogniser(sounds[first : first + args.batch_size])
    rows = differences(alone, together, args.tolerance)
    for row in rows:
        print(row)
    size = min(args.batch_size, len(sounds))
    print(f"{len(sounds)} utterances alone and {size} at a time: {len(rows)} differ")
    if rows:
        raise UserError("results depend on the batch")


def differences(
    alone: Sequence[Recognised], together: Sequence[Recognised], tolerance: float
) -> list[str]:
    """A line for each utterance whose hypotheses differ: key, alone, in the batch."""
    from espnet_mtla.diagnose.finding import hypotheses_apart

    rows = []
    for one, other in zip(alone, together, strict=True):
        if one.key != other.key:
            raise AssertionError(f"{one.key} was compared with {other.key}")
        if not hypotheses_apart(one.nbest, other.nbest) <= tolerance:
            pairs = zip(one.nbest, other.nbest, strict=False)
            a, b = next(
                ((a, b) for a, b in pairs if a != b), (one.nbest[0], other.nbest[0])
            )
            rows.append(
                f"{one.key}\talone {a.score:.6f} {a.tokens}\tbatch {b.score:.6f} "
                f"{b.tokens}"
            )
    return rows


if __name__ == "__main__":
    run(main)

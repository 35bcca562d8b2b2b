"""Write a data folder's sound at one rate, mono, 16 bit, in one file format."""

from __future__ import annotations

import argparse
import os

from espnet_mtla.bin.cli import run


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.format_audio",
        description=f"{__doc__} wav.scp may name files, commands that end in '|' and "
        "places in Kaldi archives (x.ark:123); segments and utt2speed are applied. "
        "Writes the tables again, utt2num_samples and utt2dur, and the sound under "
        "OUTPUT/data. A run that was killed continues when it is started again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("input", help="data folder to read")
    parser.add_argument(
        "output", help="data folder to write; its wav.scp holds this path as given"
    )
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument(
        "--audio_format",
        default="flac",
        choices=("flac", "flac.ark", "wav"),
        help="a file an utterance, or flac in a few archives",
    )
    parser.add_argument(
        "--nj", type=int, default=min(4, os.cpu_count() or 1), help="processes"
    )
    parser.add_argument(
        "--channel",
        metavar="N|mean",
        help="channel of sound that has several: a number from 0, or mean; "
        "without it such sound is an error",
    )
    parser.add_argument(
        "--drop_bad",
        action="store_true",
        help="leave out utterances that cannot be read, listed in OUTPUT/dropped, "
        "instead of failing",
    )
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.audio_shards import Settings
    from espnet_mtla.data.format import format_audio

    settings = Settings(args.fs, args.audio_format, args.channel)
    format_audio(args.input, args.output, settings, args.nj, args.drop_bad)


if __name__ == "__main__":
    run(main)

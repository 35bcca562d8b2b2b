"""Write the audio of a data folder at one sampling rate, mono, 16 bit, in one format.

wav.scp may name files, commands that end in '|' and offsets in Kaldi archives
(x.ark:123). segments and utt2speed are applied. The tables, utt2num_samples and
utt2dur are written too, and the audio to OUTPUT/data. An interrupted run resumes when
it is started again.
"""

from __future__ import annotations

import argparse
import os

from espnet_mtla.bin.cli import command_parser, run


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("format_audio", __doc__)
    parser.add_argument("input", help="data folder to read")
    parser.add_argument(
        "output",
        help="data folder to write; paths in its wav.scp begin with it as typed here",
    )
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate in Hz")
    parser.add_argument(
        "--audio_format",
        default="flac",
        choices=("flac", "flac.ark", "wav"),
        help="one file per utterance, or flac in a few archives",
    )
    parser.add_argument(
        "--nj", type=int, default=min(4, os.cpu_count() or 1), help="processes"
    )
    parser.add_argument(
        "--channel",
        metavar="N|mean",
        help="channel of multi-channel audio: a number from 0, or mean; default: such "
        "audio is an error",
    )
    parser.add_argument(
        "--drop_bad",
        action="store_true",
        help="drop utterances that cannot be read and list them in OUTPUT/dropped, "
        "instead of failing",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.audio_shards import Settings
    from espnet_mtla.data.format import format_audio

    settings = Settings(args.fs, args.audio_format, args.channel)
    format_audio(args.input, args.output, settings, args.nj, args.drop_bad)


if __name__ == "__main__":
    run(main)

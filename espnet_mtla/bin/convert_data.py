"""Convert a Kaldi data folder to a TSV manifest, or a TSV manifest to a data folder.

INPUT is a folder (wav.scp or feats.scp) and OUTPUT a .tsv file, or the reverse. The TSV
has one line per utterance: id, audio, n_frames, tgt_text, speaker, and src_text if
--source_text names a table. audio is a file, or an offset in an archive such as
fbank80.zip:120:5248. n_frames counts samples of audio, or frames of features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import command_parser, run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    parser = command_parser("convert_data", __doc__)
    parser.add_argument("input", type=Path, help="data folder, or .tsv file")
    parser.add_argument("output", type=Path, help=".tsv file, or data folder")
    parser.add_argument(
        "--target_text", default="text", help="table that holds tgt_text"
    )
    parser.add_argument("--source_text", default="", help="table that holds src_text")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    from espnet_mtla.data.folder import DataFolder
    from espnet_mtla.data.manifest import manifest_to_folder, write_manifest

    to_table = args.output.suffix == ".tsv"
    if to_table == (args.input.suffix == ".tsv"):
        raise UserError(
            f"{args.input}, {args.output}: one must end in .tsv, the other must not"
        )
    if to_table:
        folder = DataFolder.read(args.input)
        count = write_manifest(folder, args.output, args.target_text, args.source_text)
    else:
        source = args.source_text or "text.src"
        count = manifest_to_folder(args.input, args.output, args.target_text, source)
    print(f"{args.output}: {count} utterances")


if __name__ == "__main__":
    run(main)

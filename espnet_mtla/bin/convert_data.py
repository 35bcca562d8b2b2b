"""Turn a Kaldi data folder into one TSV manifest, or a TSV manifest into a folder.

INPUT is a folder (wav.scp or feats.scp) and OUTPUT a .tsv file, or the other way round.
The TSV has a line an utterance: id, audio, n_frames, tgt_text, speaker, and src_text
where --source_text names a table. audio is a file, or a place in an archive such as
fbank80.zip:120:5248; n_frames counts samples of sound, frames of features.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_mtla.bin.convert_data",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("input", type=Path, help="data folder, or .tsv file")
    parser.add_argument("output", type=Path, help=".tsv file, or data folder")
    parser.add_argument("--target_text", default="text", help="table of tgt_text")
    parser.add_argument("--source_text", default="", help="table of src_text")
    return parser


def main() -> None:
    """Run the command."""
    args = get_parser().parse_args()
    from espnet_mtla.data.folder import DataFolder
    from espnet_mtla.data.manifest import manifest_to_folder, write_manifest

    to_table = args.output.suffix == ".tsv"
    if to_table == (args.input.suffix == ".tsv"):
        raise UserError(
            f"{args.input}, {args.output}: one must end in .tsv, the other is a folder"
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

"""Transcribe sound files with a trained model, to the screen or to a file each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, explicit_options

if TYPE_CHECKING:
    from espnet_mtla.speech2text import Speech2Text, Transcript
    from espnet_mtla.speech2text.sound import Clip

ENDINGS = {"plain": "txt", "json": "json", "srt": "srt", "vtt": "vtt"}

SUBTITLES = ("srt", "vtt")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="espnet-mtla transcribe",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="sound, of any rate and channels")
    add(
        "--model",
        required=True,
        help="experiment folder, packed folder, or owner/name on the hub",
    )
    add("--format", choices=tuple(ENDINGS), default="plain", help="json: a line a file")
    add(
        "--output_dir",
        type=Path,
        help="write a file for each sound into this folder, with its name",
    )
    add(
        "--timestamps",
        action="store_true",
        help="times of words in json; srt and vtt always have them",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add(
        "--longest_seconds",
        type=seconds_or_trained,
        default="trained",
        help="longer recordings are cut at quiet places; trained: those longer than "
        "usual in the model's training",
    )
    add_decoding_options(parser)
    return parser


def seconds_or_trained(text: str) -> float | str:
    """Parse ``trained`` or a number of seconds, for ``argparse``."""
    if text == "trained":
        return text
    try:
        return float(text)
    except ValueError:
        needed = "trained, or a number of seconds, is needed"
        raise argparse.ArgumentTypeError(f"{text!r} given, {needed}") from None


def main() -> None:
    args = get_parser().parse_args()
    targets = output_files(args.files, args.output_dir, args.format)

    from espnet_mtla.speech2text import Speech2Text

    speech2text = Speech2Text.from_pretrained(
        args.model,
        device=args.device,
        longest_seconds=args.longest_seconds,
        **explicit_options(args),
    )
    failures: list[str] = []
    clips = open_all(speech2text, args.files, failures)
    sink = Sink(args.format, targets, len(args.files) > 1)
    timestamps = args.timestamps or args.format in SUBTITLES
    transcribe(speech2text, clips, timestamps, sink, failures)
    sink.finish()
    if failures and len(args.files) == 1:
        raise UserError(failures[0])
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(args.files)} files failed")


def output_files(
    files: Sequence[str], folder: Path | None, output_format: str
) -> list[Path | None]:
    """Return the file for each transcript; None: the screen.

    Args:
        files: the sounds.
        folder: ``--output_dir``.
        output_format: ``--format``.
    Raises:
        UserError: two transcripts would have one name, or subtitles of several files
            would go to the screen.
    """
    if folder is None:
        if output_format in SUBTITLES and len(files) > 1:
            raise UserError(
                f"--format {output_format} with several files needs --output_dir"
            )
        return [None] * len(files)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder}: is a file; name a folder")
    targets: list[Path | None] = []
    owner: dict[Path, str] = {}
    for file in files:
        target = folder / f"{Path(file).stem}.{ENDINGS[output_format]}"
        if target in owner:
            raise UserError(f"{owner[target]} and {file} would both become {target}")
        owner[target] = file
        targets.append(target)
    return targets


def open_all(
    speech2text: Speech2Text, files: Sequence[str], failures: list[str]
) -> list[tuple[int, Clip]]:
    """Return index and clip of each readable file; append errors to ``failures``."""
    clips = []
    for index, file in enumerate(files):
        try:
            clips.append((index, speech2text.reader.clip(file)))
        except UserError as error:
            failures.append(str(error))
    return clips


def transcribe(
    speech2text: Speech2Text,
    clips: Sequence[tuple[int, Clip]],
    timestamps: bool,
    sink: Sink,
    failures: list[str],
) -> None:
    """Transcribe; a terminal shows a progress bar in seconds of sound.

    Args:
        speech2text: the model.
        clips: indices of the files, and their sounds.
        timestamps: whether to compute times of words.
        sink: gets the transcripts.
        failures: errors are appended to it.
    """
    from tqdm import tqdm

    def failed(key: str, error: UserError) -> None:
        text = str(error)
        failures.append(text if key in text else f"{key}: {text}")

    total = sum(clip.seconds for _, clip in clips)
    with tqdm(total=round(total), unit="s", disable=None, file=sys.stderr) as bar:
        stream = speech2text.stream(
            [clip for _, clip in clips], timestamps=timestamps, failed=failed
        )
        for index, transcript in stream:
            bar.update(round(transcript.seconds))
            sink.write(clips[index][0], transcript)


@dataclass
class Sink:
    """Write files at once, and to the screen at the end in the order of the arguments.

    Attributes:
        output_format: ``--format``.
        targets: file for each transcript; None: the screen.
        several: whether there are several files, so that lines begin with the name.
        waiting: text for the screen by index of the file.
    """

    output_format: str
    targets: Sequence[Path | None]
    several: bool
    waiting: dict[int, str] = field(default_factory=dict)

    def write(self, index: int, transcript: Transcript) -> None:
        """Write a transcript to its file, or keep it for the screen."""
        from espnet_mtla.data.atomic import atomic_file
        from espnet_mtla.speech2text.subtitles import WRITERS

        text = WRITERS[self.output_format](transcript)
        target = self.targets[index]
        if target is None:
            named = self.several and self.output_format == "plain"
            self.waiting[index] = f"{transcript.key}\t{text}" if named else text
            return
        with atomic_file(target) as stream:
            stream.write(text)

    def finish(self) -> None:
        """Print the texts for the screen, and the number of files written."""
        for index in sorted(self.waiting):
            print(self.waiting[index], end="")
        written = [target for target in self.targets if target and target.exists()]
        if written:
            print(f"{len(written)} files written to {written[0].parent}")


if __name__ == "__main__":
    run(main)

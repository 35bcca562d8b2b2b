"""Transcribe sound files with a trained model: to the screen, or a file each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import add_decoding_options, given_options

if TYPE_CHECKING:
    from espnet_mtla.speech2text import Speech2Text, Transcript
    from espnet_mtla.speech2text.sound import Clip

ENDINGS = {"plain": "txt", "json": "json", "srt": "srt"}


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
        help="write a file for each into this folder, named as the sound is",
    )
    add(
        "--timestamps",
        action="store_true",
        help="times of words, in json; srt has them anyway",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add(
        "--longest_seconds",
        type=seconds_or_trained,
        default="trained",
        help="longer recordings are cut at quiet places; trained: those longer than "
        "is usual in the model's training",
    )
    add_decoding_options(parser)
    return parser


def seconds_or_trained(text: str) -> float | str:
    """``trained``, or a number of seconds, for ``argparse``."""
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
        **given_options(args),
    )
    failures: list[str] = []
    clips = open_all(speech2text, args.files, failures)
    sink = Sink(args.format, targets, len(args.files) > 1)
    timestamps = args.timestamps or args.format == "srt"
    transcribe(speech2text, clips, timestamps, sink, failures)
    sink.finish()
    if failures and len(args.files) == 1:
        raise UserError(failures[0])
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(args.files)} files failed")


def output_files(
    files: Sequence[str], folder: Path | None, kind: str
) -> list[Path | None]:
    """Where each file's transcript goes; None: to the screen.

    Raises:
        UserError: two would have one name, or several sets of subtitles one screen.
    """
    if folder is None:
        if kind == "srt" and len(files) > 1:
            raise UserError("--format srt with several files needs --output_dir")
        return [None] * len(files)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output_dir {folder}: is a file; name a folder")
    targets: list[Path | None] = []
    owner: dict[Path, str] = {}
    for file in files:
        target = folder / f"{Path(file).stem}.{ENDINGS[kind]}"
        if target in owner:
            raise UserError(f"{owner[target]} and {file} would both become {target}")
        owner[target] = file
        targets.append(target)
    return targets


def open_all(
    speech2text: Speech2Text, files: Sequence[str], failures: list[str]
) -> list[tuple[int, Clip]]:
    """Those that are sound, with their places; what is wrong goes to ``failures``."""
    clips = []
    for place, file in enumerate(files):
        try:
            clips.append((place, speech2text.reader.clip(file)))
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
    """Transcribe with a bar of progress, in seconds of sound, on a terminal."""
    from tqdm import tqdm

    def failed(key: str, error: UserError) -> None:
        text = str(error)
        failures.append(text if key in text else f"{key}: {text}")

    total = sum(clip.seconds for _, clip in clips)
    with tqdm(total=round(total), unit="s", disable=None, file=sys.stderr) as bar:
        found = speech2text.stream(
            [clip for _, clip in clips], timestamps=timestamps, failed=failed
        )
        for index, transcript in found:
            bar.update(round(transcript.seconds))
            sink.take(clips[index][0], transcript)


@dataclass
class Sink:
    """Writes files at once; the screen gets its lines in the order of the arguments."""

    kind: str
    targets: Sequence[Path | None]
    several: bool
    waiting: dict[int, str] = field(default_factory=dict)

    def take(self, place: int, transcript: Transcript) -> None:
        from espnet_mtla.data.atomic import atomic_file
        from espnet_mtla.speech2text.subtitles import WRITERS

        write: Callable[[Transcript], str] = WRITERS[self.kind]
        text, target = write(transcript), self.targets[place]
        if target is None:
            named = self.several and self.kind == "plain"
            self.waiting[place] = f"{transcript.key}\t{text}" if named else text
            return
        with atomic_file(target) as stream:
            stream.write(text)

    def finish(self) -> None:
        """Print what is for the screen; say what went to files."""
        for place in sorted(self.waiting):
            print(self.waiting[place], end="")
        written = [target for target in self.targets if target and target.exists()]
        if written:
            print(f"{len(written)} files written to {written[0].parent}")


if __name__ == "__main__":
    run(main)

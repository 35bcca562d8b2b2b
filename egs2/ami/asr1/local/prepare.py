"""AMI meetings to Kaldi data folders: train, dev and eval, for one kind of microphone.

``ihm`` are the headsets, one recording a speaker; ``sdm1`` is the first microphone of
the first array, ``mdm8`` its eight, delayed and summed. The segments are those of the
manual annotations (1.6.x), read from their XML.
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from nxt import Segment, Speaker, Words, read_meetings, read_segments

from espnet_mtla.bin.cli import run
from espnet_mtla.data.audio import MAX_OVERSHOOT_SECONDS, open_audio
from espnet_mtla.data.corpus import (
    corpus_parser,
    find_folder,
    require_file,
    write_sets,
)
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError

LOCAL = Path(__file__).resolve().parent
SETS = ("train", "dev", "eval")
MICROPHONES = {"ihm": (), "sdm1": (1,), "mdm8": tuple(range(1, 9))}
"""Numbers of the microphones of the first array."""
NO_ARRAY = ("IS1003b", "IS1007d")
"""Meetings whose first array the corpus has not got."""


@dataclass(frozen=True)
class Source:
    """Where things lie, and which microphones are wanted."""

    audio: Path
    annotations: Path
    mic: str
    drop_bad: bool = False


def prepare(source: Source, split: Path, data: Path) -> None:
    """Write ``data/SET_MIC`` for the meetings listed in ``split/SET.txt``.

    Meetings without a folder are left out and counted. Raises UserError for a file that
    is missing or broken inside of a meeting, unless ``source.drop_bad`` is true.
    """
    speakers = read_meetings(source.annotations / "corpusResources" / "meetings.xml")
    lists = {name: read_list(split / f"{name}.txt") for name in SETS}
    for meeting, count in Counter(chain.from_iterable(lists.values())).items():
        if count > 1:
            raise UserError(f"{split}: {meeting} stands in the lists {count} times")
    folders = {}
    for name, meetings in lists.items():
        collector = Collector(source, name)
        for meeting in meetings:
            collector.add_meeting(meeting, speakers.get(meeting, {}))
        folders[f"{name}_{source.mic}"] = collector.folder()
    write_sets(data, folders)


def read_list(path: Path) -> list[str]:
    """The meetings of a set; UserError if there is no list."""
    path = require_file(path, "--split names the folder of the lists")
    return path.read_text(encoding="utf-8").split()


class Collector:
    """The data folder of one set as it grows; everything left out is counted."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.wav: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.segments: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.utt2spk: dict[str, str] = {}
        # What is said of speakers and segments names a file of its own.
        sources = {"meetings": source.audio, "speakers": "", "segments": ""}
        self.counters = {
            unit: DropCounter(name, unit, source.drop_bad, where)
            for unit, where in sources.items()
        }

    def folder(self) -> DataFolder:
        """What was collected; the counts are printed, and UserError raised for them."""
        for counter in self.counters.values():
            counter.close()
        tables = {"text": self.text, "utt2spk": self.utt2spk}
        used = {value.split()[0] for value in self.segments.values()}
        wav = {name: self.wav[name] for name in used}
        return DataFolder(self.source.audio, wav, tables, self.segments)

    def add_meeting(self, meeting: str, speakers: dict[str, Speaker]) -> None:
        """Add what is said in a meeting by its ``speakers``, agent to speaker."""
        counter = self.counters["meetings"]
        if not (self.source.audio / meeting).is_dir():
            counter.drop("have no folder with their sound", meeting)
            return
        if self.source.mic != "ihm" and meeting in NO_ARRAY:
            counter.drop("have no array in the corpus", meeting)
            return
        counter.keep()
        words = (self.source.annotations / "words").glob(f"{meeting}.*.words.xml")
        annotated = {path.name.split(".")[1] for path in words}
        # Without either there is still a file to miss.
        for agent in sorted(annotated | speakers.keys()) or ["A"]:
            self.add_agent(meeting, agent, speakers.get(agent))

    def add_agent(self, meeting: str, agent: str, speaker: Speaker | None) -> None:
        """Add what one agent says, or refuse the agent for what is missing."""
        counter = self.counters["speakers"]
        words_path, segments_path = (
            self.source.annotations / layer / f"{meeting}.{agent}.{layer}.xml"
            for layer in ("words", "segments")
        )
        try:
            words, segments = Words(words_path), read_segments(segments_path)
            if speaker is None:
                raise UserError(f"{words_path}: agent {agent} is not in meetings.xml")
            recording = self.open_recording(meeting, speaker)
        except UserError as error:
            counter.refuse("cannot be used", error)
            return
        counter.keep()
        for segment in segments:
            where = f"{segments_path.name} {segment.name}"
            self.add_segment(speaker, recording, segment, words, where)

    def open_recording(self, meeting: str, speaker: Speaker) -> str:
        """The recording's name in ``wav.scp``; UserError for sound that is unusable."""
        mic = self.source.mic
        tail = f"Headset-{speaker.channel}" if mic == "ihm" else mic
        name = f"{meeting}.{tail}"
        if name in self.wav:
            return name
        numbers = [f"Array1-{n:02d}" for n in MICROPHONES[mic]] or [tail]
        folder = (self.source.audio / meeting / "audio").resolve()
        paths = [str(folder / f"{meeting}.{number}.wav") for number in numbers]
        lengths, channels = [], 0
        for path in paths:
            with open_audio(path) as sound:
                lengths.append(sound.frames / sound.samplerate)
                channels += sound.channels
        self.wav[name] = paths[0]
        if channels > 1:  # several microphones, or a file of one that has two
            command = shlex.join(["python3", str(LOCAL / "array_sum.py"), *paths])
            self.wav[name] = f"{command} |"
        self.seconds[name] = min(lengths)
        return name

    def add_segment(
        self, speaker: Speaker, recording: str, segment: Segment, words: Words, at: str
    ) -> None:
        """Add a segment, or count why not; ``at`` is where it stands.

        Where a transcriber's times and the sound do not meet there is nothing that a
        user could repair: left out, as are segments in which nobody speaks.
        """
        counter = self.counters["segments"]
        start, end, length = segment.start, segment.end, self.seconds[recording]
        try:
            text = words.cut(segment.ranges)
        except KeyError as error:
            counter.refuse("name words that are not there", f"{at}: {error.args[0]}")
            return
        if start is None or end is None:
            counter.drop("have no times", at)
        elif not 0 <= start < end:
            counter.drop("end before they begin", f"{at}: {start:g} to {end:g} s")
        elif start >= length or end > length + MAX_OVERSHOOT_SECONDS:
            detail = f"{at}: {start:g} to {end:g} s of {length:.2f} s"
            counter.drop("go beyond the end of the sound", detail)
        elif not text:
            counter.drop("have no words", at)
        else:
            # Milliseconds with leading zeros: sorted by time.
            times = f"{round(1000 * start):08d}_{round(1000 * end):08d}"
            key = f"{speaker.name}_{recording.replace('.', '_')}_{times}"
            if key in self.segments:
                counter.drop("occur twice", at)
                return
            self.segments[key] = f"{recording} {start:.3f} {end:.3f}"
            self.text[key] = text
            self.utt2spk[key] = speaker.name
            counter.keep()


def find_annotations(corpus: Path, given: Path | None) -> Path:
    """The folder with ``words``, ``segments`` and ``corpusResources``."""
    places = [given] if given else [corpus, corpus / "annotations", corpus.parent]
    if not given:
        for top in (corpus, corpus.parent):
            places += sorted(top.glob("ami*manual*"))
    return find_folder(
        places,
        "corpusResources/meetings.xml",
        "unpack ami_public_manual_1.6.2.zip and name its folder with --annotations",
    )


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder with MEETING/audio/*.wav, or the one that has it as amicorpus",
        drop_bad="leave out and count speakers and segments that cannot be used",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        help="folder of the manual annotations, unpacked; without it they are looked "
        "for in and beside the corpus",
    )
    parser.add_argument("--mic", default="ihm", choices=MICROPHONES, help="microphones")
    parser.add_argument(
        "--split", type=Path, default=LOCAL / "split", help="lists of the meetings"
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if not args.corpus.is_dir():
        raise UserError(f"--corpus {args.corpus}: no such folder")
    nested = args.corpus / "amicorpus"
    audio = nested if nested.is_dir() else args.corpus
    annotations = find_annotations(args.corpus, args.annotations)
    source = Source(audio, annotations, args.mic, args.drop_bad)
    prepare(source, args.split, args.data)


if __name__ == "__main__":
    run(main)

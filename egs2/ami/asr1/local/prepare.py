"""Prepare AMI: data/{train,dev,eval}_MIC for one type of microphone.

``ihm`` are the headsets, one recording per speaker; ``sdm1`` is the first microphone of
the first array; ``mdm8`` are its eight microphones after delay-and-sum. Segments come
from the manual annotations (1.6.x, XML).
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
"""Meetings whose first array is not in the corpus."""


@dataclass(frozen=True)
class Source:
    """Folders of the corpus, type of microphone, and whether to drop bad segments."""

    audio: Path
    annotations: Path
    mic: str
    drop_bad: bool = False


def prepare(source: Source, split: Path, data: Path) -> None:
    """Write ``data/SET_MIC`` for the meetings listed in ``split/SET.txt``.

    Meetings without a folder are dropped and counted.

    Args:
        source: the corpus and the choice of microphones.
        split: folder of the lists.
        data: parent of the folders to write.
    Raises:
        UserError: a file of a meeting is missing or broken and ``source.drop_bad`` is
            false; a meeting is listed twice.
    """
    speakers = read_meetings(source.annotations / "corpusResources" / "meetings.xml")
    lists = {name: read_list(split / f"{name}.txt") for name in SETS}
    for meeting, count in Counter(chain.from_iterable(lists.values())).items():
        if count > 1:
            raise UserError(f"{split}: {meeting} is listed {count} times")
    folders = {}
    for name, meetings in lists.items():
        collector = Collector(source, name)
        for meeting in meetings:
            collector.add_meeting(meeting, speakers.get(meeting, {}))
        folders[f"{name}_{source.mic}"] = collector.folder()
    write_sets(data, folders)


def read_list(path: Path) -> list[str]:
    """Return the meetings of a set; raise UserError if there is no list."""
    path = require_file(path, "--split names the folder of the lists")
    return path.read_text(encoding="utf-8").split()


class Collector:
    """Collects the data folder of one set and counts what is dropped."""

    def __init__(self, source: Source, name: str) -> None:
        self.source = source
        self.wav: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.segments: dict[str, str] = {}
        self.text: dict[str, str] = {}
        self.utt2spk: dict[str, str] = {}
        # Messages about speakers and segments name a file themselves.
        sources = {"meetings": source.audio, "speakers": "", "segments": ""}
        self.counters = {
            unit: DropCounter(name, unit, source.drop_bad, where)
            for unit, where in sources.items()
        }

    def folder(self) -> DataFolder:
        """Return the folder; print the counts, or raise UserError for bad items."""
        for counter in self.counters.values():
            counter.close()
        tables = {"text": self.text, "utt2spk": self.utt2spk}
        used = {value.split()[0] for value in self.segments.values()}
        wav = {name: self.wav[name] for name in used}
        return DataFolder(self.source.audio, wav, tables, self.segments)

    def add_meeting(self, meeting: str, speakers: dict[str, Speaker]) -> None:
        """Add the segments of a meeting; ``speakers`` is {agent: speaker}."""
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
        # A meeting without any agent fails below, for a missing file.
        for agent in sorted(annotated | speakers.keys()) or ["A"]:
            self.add_agent(meeting, agent, speakers.get(agent))

    def add_agent(self, meeting: str, agent: str, speaker: Speaker | None) -> None:
        """Add the segments of one agent, or refuse the agent if a file is unusable."""
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
        """Add the recording to ``wav.scp`` and return its name there.

        Raises:
            UserError: a sound file is unusable.
        """
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
        if channels > 1:  # several microphones, or one file of several channels
            command = shlex.join(["python3", str(LOCAL / "array_sum.py"), *paths])
            self.wav[name] = f"{command} |"
        self.seconds[name] = min(lengths)
        return name

    def add_segment(
        self, speaker: Speaker, recording: str, segment: Segment, words: Words, at: str
    ) -> None:
        """Add a segment, or count it with the reason.

        Segments without words or with times outside of the sound are dropped without
        an error: users cannot correct the annotation.

        Args:
            speaker: who speaks.
            recording: name in ``wav.scp``.
            segment: times and ranges of words.
            words: the words layer of the agent.
            at: file and name of the segment, for messages.
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


def find_annotations(corpus: Path, named: Path | None) -> Path:
    """Return the folder with ``words``, ``segments`` and ``corpusResources``.

    ``named``, if there is one, is the only place searched.
    """
    places = [named] if named else [corpus, corpus / "annotations", corpus.parent]
    if not named:
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
        drop_bad="drop and count speakers and segments that cannot be used",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        help="folder of the manual annotations, unpacked; default: searched "
        "in and beside the corpus",
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

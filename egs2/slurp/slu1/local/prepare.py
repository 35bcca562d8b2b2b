"""SLURP to Kaldi data folders: train, devel and test, spoken commands and their intent.

Read are ``dataset/slurp/{train,train_synthetic,devel,test}.jsonl`` and
``metadata.json``, which says who speaks in a recording. ``text`` is the intent, that is
scenario and action joined by ``_``, then the sentence. Synthetic speech is for training
alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from espnet_mtla.bin.cli import run
from espnet_mtla.data.corpus import (
    corpus_parser,
    find_folder,
    read_jsonl,
    require_file,
    write_sets,
)
from espnet_mtla.data.folder import DataFolder
from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError
from espnet_mtla.text_files import parse_json

# Held-out sets first: what occurs twice is then theirs.
SETS = {"test": ("test",), "devel": ("devel",), "train": ("train", "train_synthetic")}
REAL, SYNTHETIC = "slurp_real", "slurp_synth"
WITHOUT = {REAL: "", SYNTHETIC: "; --no_synthetic goes without"}
SYNTHETIC_SPEAKER = "synthetic"


@dataclass(frozen=True)
class Source:
    """Where the lists and the sound lie."""

    lists: Path
    audio: Path
    drop_bad: bool = False


@dataclass
class Collector:
    """The sets as they grow, and what they need to know of each other."""

    source: Source
    speakers: dict[str, str]
    sounds: dict[str, set[str]]
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)

    def read_set(self, name: str, lists: tuple[str, ...]) -> DataFolder:
        """One set in memory; each recording is kept or counted."""
        folder = DataFolder(self.source.lists, {}, {"text": {}, "utt2spk": {}})
        for listing in lists:
            kind = SYNTHETIC if listing.endswith("_synthetic") else REAL
            path = self.source.lists / f"{listing}.jsonl"
            require_file(path, f"get the corpus again{WITHOUT[kind]}")
            counter = DropCounter(listing, "recordings", self.source.drop_bad, path)
            for place, file, text in read_recordings(path, counter):
                self.add(folder, f"{place}: {file}", kind, file, text, counter)
            counter.close()
        intents = {text.split()[0] for text in folder.tables["text"].values()}
        print(f"{name}: {len(intents)} intents")
        return folder

    def add(
        self,
        folder: DataFolder,
        where: str,
        kind: str,
        file: str,
        text: str,
        counter: DropCounter,
    ) -> None:
        """Add a recording to its set, or count why not."""
        known = self.speakers.get(file, "")
        speaker = SYNTHETIC_SPEAKER if kind == SYNTHETIC else known
        key = f"{speaker}_{Path(file).stem}"
        other, listing = self.seen.get(key, ("", ""))
        if file not in self.sounds[kind]:
            counter.refuse(f"not in {self.source.audio / kind}", where)
        elif len(speaker.split()) != 1:
            counter.refuse("unknown speaker, no usrid in metadata.json", where)
        elif listing and (listing != counter.name or other != text):
            counter.refuse(f"recordings that {listing}.jsonl has already", where)
        elif listing:
            counter.drop("that occur twice", where)
        else:
            self.seen[key] = (text, counter.name)
            folder.wav[key] = str((self.source.audio / kind / file).resolve())
            folder.tables["text"][key] = text
            folder.tables["utt2spk"][key] = speaker
            counter.keep()


def prepare(source: Source, data: Path, synthetic: bool = True) -> None:
    """Write ``data/{train,devel,test}``; ``synthetic`` adds synthetic speech to train.

    Nothing is written before all is read. Raises UserError naming the file, line or
    recording that cannot be used.
    """
    kinds = (REAL, SYNTHETIC) if synthetic else (REAL,)
    sounds = {kind: list_sounds(source.audio / kind) for kind in kinds}
    speakers = read_speakers(source.lists / "metadata.json")
    collector = Collector(source, speakers, sounds)
    folders = {
        name: collector.read_set(name, lists if synthetic else lists[:1])
        for name, lists in SETS.items()
    }
    write_sets(data, folders)


def list_sounds(folder: Path) -> set[str]:
    """Names of the sound files in a folder."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; unpack {folder.name}.tar.gz there, or name the "
            f"folder that holds {folder.name} with --audio{WITHOUT[folder.name]}"
        )
    return {path.name for path in folder.iterdir()}


def read_speakers(path: Path) -> dict[str, str]:
    """Recording to speaker (``usrid``), from ``metadata.json``."""
    text = require_file(path).read_bytes()
    entries = parse_json(text, str(path), "get the file again")
    try:
        return {
            file: str(about.get("usrid") or "")
            for entry in entries.values()
            for file, about in entry["recordings"].items()
        }
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path}: not the metadata of SLURP ({type(error).__name__}: {error}); get "
            "the file again"
        ) from None


def read_recordings(path: Path, counter: DropCounter) -> Iterator[tuple[str, str, str]]:
    """Where it stands, file name and text of each recording of a list.

    Sentences that have no text, or no intent, are counted by their recordings; those
    without a recording are none of them, and said.
    """
    mute: list[str] = []
    for number, entry in read_jsonl(path):
        where = f"line {number}"
        try:
            files = [recording["file"] for recording in entry["recordings"]]
            sentence, scenario, action = (
                str(entry[name] or "") for name in ("sentence", "scenario", "action")
            )
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{path}:{number}: no line of SLURP ({type(error).__name__}: {error}); "
                "get the file again"
            ) from None
        intent = f"{scenario}_{action}"
        if not files:
            mute.append(where)
        for file in files:
            if not (scenario and action) or len(intent.split()) != 1:
                counter.refuse("no intent", f"{where}: {file}")
            elif not sentence.strip():
                counter.drop("without a sentence", f"{where}: {file}")
            else:
                yield where, file, " ".join([intent, *sentence.split()])
    if mute:
        total = f"{len(mute)} sentences without a recording"
        print(f"{counter.name}: {total}, as {mute[0]}")


def find_lists(corpus: Path) -> Path:
    """The folder of the lists: the corpus's ``dataset/slurp``, or itself."""
    places = (corpus / "dataset" / "slurp", corpus)
    return find_folder(places, "train.jsonl", "name the folder of SLURP with --corpus")


def find_audio(corpus: Path) -> Path:
    """Where ``slurp_real`` lies; the place of the documentation, if nowhere."""
    for place in (corpus / "audio", corpus / "scripts" / "audio", corpus):
        if (place / REAL).is_dir():
            return place
    return corpus / "audio"


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder that holds dataset/slurp and audio",
        drop_bad="leave out and count recordings without sound, speaker or intent",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        help=f"folder that holds {REAL} and {SYNTHETIC}; without it they are looked "
        "for in the corpus",
    )
    parser.add_argument(
        "--no_synthetic", action="store_true", help="train on real speech alone"
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    lists = find_lists(args.corpus)
    source = Source(lists, args.audio or find_audio(args.corpus), args.drop_bad)
    prepare(source, args.data, synthetic=not args.no_synthetic)


if __name__ == "__main__":
    run(main)

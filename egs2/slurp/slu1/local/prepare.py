"""Prepare SLURP, spoken commands with intents: data/{train,devel,test}.

Input: ``dataset/slurp/{train,train_synthetic,devel,test}.jsonl``, and the speaker of
each recording in ``metadata.json``. ``text`` is the intent (scenario and action, joined
by ``_``), then the sentence. Synthetic speech is used in training only.
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

# Held-out sets first: a recording that occurs twice belongs to the first set.
SETS = {"test": ("test",), "devel": ("devel",), "train": ("train", "train_synthetic")}
REAL, SYNTHETIC = "slurp_real", "slurp_synth"
WITHOUT = {REAL: "", SYNTHETIC: "; --no_synthetic goes without"}
SYNTHETIC_SPEAKER = "synthetic"


@dataclass(frozen=True)
class Source:
    """Folders of lists and sound, and whether to drop bad recordings."""

    lists: Path
    audio: Path
    drop_bad: bool = False


@dataclass
class Collector:
    """Reads the sets in turn and remembers the recordings of earlier ones."""

    source: Source
    speakers: dict[str, str]
    sounds: dict[str, set[str]]
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)

    def read_set(self, name: str, lists: tuple[str, ...]) -> DataFolder:
        """Read a set from its lists; count the recordings that are dropped."""
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
        """Add a recording to its set, or count it with the reason.

        Args:
            folder: the set.
            where: line and file name, for messages.
            kind: :data:`REAL` or :data:`SYNTHETIC`.
            file: name of the sound file.
            text: intent and sentence.
            counter: of the list.
        """
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
    """Write ``data/{train,devel,test}``, all or none.

    Args:
        source: the corpus.
        data: parent of the folders to write.
        synthetic: whether train includes synthetic speech.
    Raises:
        UserError: a file, line or recording is unusable; the message names it.
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
    """Return the names of the files in a folder of sound."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; unpack {folder.name}.tar.gz there, or name the "
            f"folder that holds {folder.name} with --audio{WITHOUT[folder.name]}"
        )
    return {path.name for path in folder.iterdir()}


def read_speakers(path: Path) -> dict[str, str]:
    """Return {recording: speaker} from ``metadata.json`` (field ``usrid``)."""
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
    """Yield line, file name and text of each recording of a list.

    Recordings of sentences without text or intent are counted. Sentences without a
    recording are no recordings; their number is printed.
    """
    unrecorded: list[str] = []
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
            unrecorded.append(where)
        for file in files:
            if not (scenario and action) or len(intent.split()) != 1:
                counter.refuse("no intent", f"{where}: {file}")
            elif not sentence.strip():
                counter.drop("without a sentence", f"{where}: {file}")
            else:
                yield where, file, " ".join([intent, *sentence.split()])
    if unrecorded:
        total = f"{len(unrecorded)} sentences without a recording"
        print(f"{counter.name}: {total}, such as {unrecorded[0]}")


def find_lists(corpus: Path) -> Path:
    """Return the folder of the lists: ``dataset/slurp`` of the corpus, or itself."""
    places = (corpus / "dataset" / "slurp", corpus)
    return find_folder(places, "train.jsonl", "name the folder of SLURP with --corpus")


def find_audio(corpus: Path) -> Path:
    """Return the folder that has ``slurp_real``; the documented one if none has."""
    for place in (corpus / "audio", corpus / "scripts" / "audio", corpus):
        if (place / REAL).is_dir():
            return place
    return corpus / "audio"


def get_parser() -> argparse.ArgumentParser:
    parser = corpus_parser(
        __doc__,
        corpus="folder that holds dataset/slurp and audio",
        drop_bad="drop and count recordings without sound, speaker or intent",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        help=f"folder that holds {REAL} and {SYNTHETIC}; default: searched in the "
        "corpus",
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

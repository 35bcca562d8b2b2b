"""Formatted data folders and collected statistics, as espnet2's options want them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.features import check_places
from espnet_mtla.data.folder import FEATURES, read_table, source_table
from espnet_mtla.data.utterance_table import TYPE
from espnet_mtla.errors import UserError
from espnet_mtla.frontend.record import check_made_by

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Source:
    """One data folder: what to read, and the words of each utterance.

    ``source_texts`` is what was said, or what is summed up, where a task has it.
    ``width`` is that of its features, None for a folder of sound or of texts.
    """

    folder: Path
    triples: tuple[Triple, ...]  # path, name in the batch, espnet2's type
    texts: dict[str, str]
    source_texts: dict[str, str]
    width: int | None = None

    @property
    def target(self) -> Path:
        """Where ``texts`` stand; always the last of what is read."""
        return Path(self.triples[-1][0])

    @property
    def inputs(self) -> str:
        """The name of the model's input: ``speech``, or ``source`` for text."""
        return self.triples[0][1]

    def __len__(self) -> int:
        return len(self.texts)


def open_source(
    folder: str | Path, target: str = "text", source: str = "", sound: bool = True
) -> Source:
    """Check a formatted folder: wav.scp (or feats.scp) and text with the same keys,
    sound or features in place.

    Args:
        folder: data folder; without sound and source it may be a table of texts.
        target, source: names of the tables of texts; none for no source.
        sound: False where the source's text is all the input there is.

    Raises:
        UserError: names the file and the first utterance that is wrong.
    """
    folder = Path(folder)
    if not sound and not source and folder.is_file():
        folder, target = folder.parent, folder.name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder")
    triples: tuple[Triple, ...] = ((str(folder / target), "text", "text"),)
    texts, source_texts = _read_texts(folder / target), {}
    if source:
        source_texts = _read_texts(folder / source)
        same_keys(folder / source, source_texts, folder / target, texts)
        triples = ((str(folder / source), "source", "text"), *triples)
    if not sound:
        return Source(folder, triples, texts, source_texts)
    table = folder / source_table(folder)
    places = read_table(table)
    if not places:
        raise UserError(f"{table}: no utterances")
    same_keys(table, places, folder / target, texts)
    width = None
    if table.name == FEATURES:
        width = check_places(table, places)
    else:
        _check_sounds(folder, table, places)
    triples = ((str(table), "speech", TYPE), *triples)
    return Source(folder, triples, texts, source_texts, width)


def _read_texts(path: Path) -> dict[str, str]:
    texts = read_table(path)
    if not texts:
        raise UserError(f"{path}: no utterances")
    for key, text in texts.items():
        if not text.strip():
            raise UserError(f"{path}: {key}: no words; drop it with filter_data")
    return texts


def _check_sounds(folder: Path, table: Path, sounds: dict[str, str]) -> None:
    archives = _archives(folder, sounds)
    for key, value in sounds.items():
        path = value.rpartition(":")[0] if archives else value
        if path.rstrip().endswith("|"):
            raise UserError(f"{table}: {key}: a pipe; run format_audio")
        if not Path(path).is_file():
            raise UserError(f"{table}: {key}: {path}: no such file")


def _archives(folder: Path, sounds: dict[str, str]) -> bool:
    """Whether sound lies in Kaldi archives: as ``audio_format`` says or it looks."""
    named = folder / "audio_format"
    if named.is_file():
        return "ark" in named.read_text(encoding="utf-8")
    path, _, offset = next(iter(sounds.values())).rpartition(":")
    return path.endswith(".ark") and offset.isdigit()


def check_rate(source: Source, rate: int) -> None:
    """Require the sampling rate the front-end is set to, at the first utterance.

    Raises:
        UserError: names the utterance and both rates.
    """
    from espnet_mtla.data.audio import open_audio

    path = source.triples[0][0]
    key, value = next(iter(read_table(path).items()))
    try:
        with open_audio(value) as sound:
            found = sound.samplerate
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    if found != rate:
        raise UserError(
            f"{path}: {key}: {found} Hz, and frontend_conf.fs is {rate}; set it to "
            f"{found}, or run format_audio --fs {rate}"
        )


def check_features(source: Source, args: Namespace) -> None:
    """Require features that the front-end would have made, or ``frontend: none``.

    With ``none``, ``args.input_size`` becomes their width where it is not given.

    Raises:
        UserError: features of another front-end or width, or sound for none.
    """
    if args.frontend is None:
        if source.width is None:
            raise UserError(
                f"{source.folder}: holds sound, and frontend none takes features: make "
                "them with dump_features, or choose a frontend"
            )
        args.input_size = args.input_size or source.width
        if args.input_size != source.width:
            raise UserError(
                f"{source.folder}: features of width {source.width}, and input_size is "
                f"{args.input_size}"
            )
        return
    check_made_by(source.folder, args.frontend, args.frontend_conf)


def lengths(source: Source) -> dict[str, str]:
    """What batches are measured by, as in a shape file; {} where it is not known yet.

    That is ``utt2num_samples``, which format_audio writes; a folder of features made
    from such sound has it too, so that batches are the same from either. Without it
    ``utt2num_frames`` times the width.

    Raises:
        UserError: a table that is not of the folder's utterances.
    """
    for name, form in (
        ("utt2num_samples", "{}"),
        ("utt2num_frames", f"{{}},{source.width}"),
    ):
        path = source.folder / name
        if path.is_file() and (name == "utt2num_samples" or source.width):
            counts = read_table(path)
            same_keys(path, counts, source.target, source.texts)
            return {key: form.format(count) for key, count in counts.items()}
    return {}


def usual_seconds(source: Source, rate: int) -> float | None:
    """The length in seconds that one utterance in a hundred exceeds.

    None for a folder that does not tell its samples (``utt2num_samples``).

    Raises:
        UserError: a table that is not of the folder's utterances.
    """
    if not (source.folder / "utt2num_samples").is_file():
        return None
    samples = sorted(int(count) for count in lengths(source).values())
    return samples[(99 * len(samples) - 1) // 100] / rate


def shape_files(stats: str | Path, part: str, source: Source) -> list[str]:
    """Lengths of input and text collected from just this data.

    Raises:
        UserError: not collected yet, or from other data.
    """
    names = dict.fromkeys((source.inputs, "text"))  # one name for a language model
    paths = [Path(stats) / part / f"{name}_shape" for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; run train --collect_stats first")
        try:
            same_keys(path, read_table(path), source.target, source.texts)
        except UserError as error:
            raise UserError(f"{error}; run train --collect_stats again") from None
    return [str(path) for path in paths]


def same_keys(
    one: Path, ours: Iterable[str], other: Path, theirs: Iterable[str]
) -> None:
    """Require the same utterances in two files."""
    ours, theirs = set(ours), set(theirs)
    if ours != theirs:
        key = min(ours ^ theirs)
        has, lacks = (one, other) if key in ours else (other, one)
        raise UserError(
            f"{lacks}: utterance {key} of {has} is missing "
            f"({len(ours ^ theirs)} such in all)"
        )

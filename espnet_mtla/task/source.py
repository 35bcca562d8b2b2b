"""Check formatted data folders and collected statistics; return espnet2's options."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.features import check_places
from espnet_mtla.data.folder import FEATURES, source_table
from espnet_mtla.data.table import read_table
from espnet_mtla.data.utterance_table import TYPE
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.frontend.record import check_made_by
from espnet_mtla.text_files import read_text

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Source:
    """One data folder: the files for espnet2's dataset, and the text per utterance.

    Attributes:
        folder: path of the data folder.
        triples: files to read; the first is the model's input, the last the target.
        texts: target text of each utterance.
        source_texts: source text (transcript, article) of each utterance; empty for
            tasks without one.
        width: width of stored features; None for a folder of sound or of texts.
    """

    folder: Path
    triples: tuple[Triple, ...]  # path, name in the batch, espnet2's type
    texts: dict[str, str]
    source_texts: dict[str, str]
    width: int | None = None

    @property
    def target(self) -> Path:
        """Path of the table of ``texts``; always the last triple."""
        return Path(self.triples[-1][0])

    @property
    def inputs(self) -> str:
        """Name of the model's input: ``speech``, or ``source`` for text."""
        return self.triples[0][1]

    def __len__(self) -> int:
        return len(self.texts)


def open_source(
    folder: str | Path, target: str = "text", source: str = "", sound: bool = True
) -> Source:
    """Check a formatted data folder.

    All tables must have the same keys, no text may be empty, and the files named in
    wav.scp or feats.scp must exist.

    Args:
        folder: data folder; without sound and source it may be a table of texts.
        target: name of the table of target texts.
        source: name of the table of source texts; empty if the task has none.
        sound: False if the source text is the only input.
    Returns:
        The checked folder.
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
            raise UserError(
                f"{path}: {key}: no words; drop it with espnet-mtla filter_data"
            )
    return texts


def _check_sounds(folder: Path, table: Path, sounds: dict[str, str]) -> None:
    archives = _archives(folder, sounds)
    for key, value in sounds.items():
        path = value.rpartition(":")[0] if archives else value
        if path.rstrip().endswith("|"):
            raise UserError(f"{table}: {key}: a pipe; run espnet-mtla format_audio")
        if not Path(path).is_file():
            raise UserError(f"{table}: {key}: {path}: {no_file(path)}")


def _archives(folder: Path, sounds: dict[str, str]) -> bool:
    """Return True if wav.scp points into Kaldi archives.

    The file ``audio_format`` decides; without it, the first path (``FILE.ark:OFFSET``).
    """
    named = folder / "audio_format"
    if named.is_file():
        return "ark" in read_text(named)
    path, _, offset = next(iter(sounds.values())).rpartition(":")
    return path.endswith(".ark") and offset.isdigit()


def check_rate(source: Source, rate: int) -> None:
    """Check that the first utterance has the sampling rate of the front-end, in Hz.

    Raises:
        UserError: names the utterance and both rates.
    """
    from espnet_mtla.data.audio import open_audio

    path = source.triples[0][0]
    key, value = next(iter(read_table(path).items()))
    try:
        with open_audio(value) as sound:
            actual = sound.samplerate
    except UserError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    if actual != rate:
        raise UserError(
            f"{path}: {key}: {actual} Hz, and frontend_conf.fs is {rate}; set it to "
            f"{actual}, or run espnet-mtla format_audio --fs {rate}"
        )


def check_features(source: Source, args: Namespace) -> None:
    """Check that stored features match the configured front-end.

    With ``frontend: none``, ``args.input_size`` defaults to the width of the features.

    Raises:
        UserError: the features have another front-end or width, or the folder holds
            sound and ``frontend`` is ``none``.
    """
    if args.frontend is None:
        if source.width is None:
            raise UserError(
                f"{source.folder}: holds sound, and frontend none takes features: make "
                "them with espnet-mtla dump_features, or choose a frontend"
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
    """Return the input length of each utterance in the format of a shape file.

    ``utt2num_samples`` (written by format_audio) is preferred: dump_features copies it
    to a folder of features, so that batches are the same for sound and features.
    Without it, the shape is ``utt2num_frames,width``. Empty if neither table exists.

    Raises:
        UserError: the utterances of the table differ from those of the folder.
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
    """Return the 99th percentile of utterance lengths in seconds.

    None if the folder has no ``utt2num_samples``.

    Raises:
        UserError: the utterances of the table differ from those of the folder.
    """
    if not (source.folder / "utt2num_samples").is_file():
        return None
    samples = sorted(int(count) for count in lengths(source).values())
    return samples[(99 * len(samples) - 1) // 100] / rate


def shape_files(stats: str | Path, part: str, source: Source) -> list[str]:
    """Return the shape files of input and text, after checking their keys.

    Raises:
        UserError: the files are missing, or were collected from other data.
    """
    names = dict.fromkeys((source.inputs, "text"))  # one name for a language model
    paths = [Path(stats) / part / f"{name}_shape" for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"{path}: {no_file(path)}; run espnet-mtla train --collect_stats first"
            )
        try:
            same_keys(path, read_table(path), source.target, source.texts)
        except UserError as error:
            raise UserError(
                f"{error}; run espnet-mtla train --collect_stats again"
            ) from None
    return [str(path) for path in paths]


def same_keys(
    one: Path, ours: Iterable[str], other: Path, theirs: Iterable[str]
) -> None:
    """Raise :class:`UserError` if two files have different utterances."""
    ours, theirs = set(ours), set(theirs)
    if ours != theirs:
        key = min(ours ^ theirs)
        has, lacks = (one, other) if key in ours else (other, one)
        raise UserError(
            f"{lacks}: utterance {key} of {has} is missing "
            f"({len(ours ^ theirs)} such in all)"
        )

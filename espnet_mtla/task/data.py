"""Formatted data folders and collected statistics, as espnet2's options want them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data.folder import read_table
from espnet_mtla.errors import UserError

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Source:
    """One data folder: what to read, and the words of each utterance."""

    folder: Path
    triples: tuple[Triple, ...]  # path, name in the batch, espnet2's type
    texts: dict[str, str]

    def __len__(self) -> int:
        return len(self.texts)


def open_source(folder: str | Path) -> Source:
    """Check a formatted folder (wav.scp and text with the same keys, sound in place).

    Raises:
        UserError: names the file and the first utterance that is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder")
    sounds, texts = read_table(folder / "wav.scp"), read_table(folder / "text")
    if not sounds:
        raise UserError(f"{folder / 'wav.scp'}: no utterances")
    same_keys(folder / "wav.scp", sounds, folder / "text", texts)
    for key, text in texts.items():
        if not text.strip():
            raise UserError(
                f"{folder / 'text'}: {key}: no words; drop it with filter_data"
            )
    archives = _archives(folder, sounds)
    for key, value in sounds.items():
        path = value.rpartition(":")[0] if archives else value
        if path.rstrip().endswith("|"):
            raise UserError(f"{folder / 'wav.scp'}: {key}: a pipe; run format_audio")
        if not Path(path).is_file():
            raise UserError(f"{folder / 'wav.scp'}: {key}: {path}: no such file")
    kind = "kaldi_ark" if archives else "sound"
    triples = (
        (str(folder / "wav.scp"), "speech", kind),
        (str(folder / "text"), "text", "text"),
    )
    return Source(folder, triples, texts)


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
    path, _, kind = source.triples[0]
    key, value = next(iter(read_table(path).items()))
    if kind == "sound":
        import soundfile

        try:
            found = soundfile.info(value).samplerate
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path}: {key}: {value}: {error.error_string}") from None
    else:
        import kaldiio

        content = kaldiio.load_mat(value)
        if not isinstance(content, tuple):
            return  # an archive of features: there is no rate
        found = content[0]
    if found != rate:
        raise UserError(
            f"{path}: {key}: {found} Hz, and frontend_conf.fs is {rate}; set it to "
            f"{found}, or run format_audio --fs {rate}"
        )


def sample_counts(source: Source) -> dict[str, str]:
    """``utt2num_samples`` of the folder, which format_audio writes; {} without it.

    Raises:
        UserError: it is not of the folder's utterances.
    """
    path = source.folder / "utt2num_samples"
    if not path.is_file():
        return {}
    counts = read_table(path)
    same_keys(path, counts, source.folder / "text", source.texts)
    return counts


def shape_files(stats: str | Path, part: str, source: Source) -> list[str]:
    """Lengths of speech and text collected from just this data.

    Raises:
        UserError: not collected yet, or from other data.
    """
    paths = [Path(stats) / part / f"{name}_shape" for name in ("speech", "text")]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; run train --collect_stats first")
        try:
            same_keys(path, read_table(path), source.folder / "text", source.texts)
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

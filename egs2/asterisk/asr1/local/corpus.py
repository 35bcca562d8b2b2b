"""Download and reader of the Asterisk prompts.

One distribution package has the sound files, another one a list ``name: text``. Names
are the same in every language (``digits/7``, ``letters/q``, ``vm-goodbye``). Texts
contain numerals, symbols and remarks in brackets. :func:`read_corpus` returns the
prompts whose spoken words are unambiguous.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data import debian as apt
from espnet_mtla.errors import UserError

# Misspellings in the English list. No other text was compared with its sound.
CORRECTIONS = {
    "exclaimation": "exclamation",
    "represenatives": "representatives",
    "umute": "unmute",
    "un-indentified": "unidentified",
    "witheld": "withheld",
    "de-activated": "deactivated",
}
SYMBOL_NAMES = {"#": "digits/pound", "*": "digits/star"}
NOT_SPEECH = "not speech"
REMARK = "remark beside the text"
AMBIGUOUS = "not readable in one way"
NO_AUDIO = "no sound file"
CONTRADICTION = "two texts for one name"


@dataclass(frozen=True)
class Recording:
    """One prompt: name in the list, lower-case words, sound file."""

    name: str
    text: str
    path: Path


def packages(language: str) -> list[str]:
    """Return the two packages of a language: transcripts, then sound."""
    return [f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-wav"]


def fetch_packages(language: str, downloads: Path) -> Path:
    """Download and unpack a language's packages; return their folder.

    Works without root. An existing folder is complete, because it gets its name last,
    and is reused.

    Raises:
        UserError: apt is missing or fails; the message names the packages and --corpus.
    """
    instead = (
        f"unpack the Debian packages {' and '.join(packages(language))} into a folder "
        "by other means and name it with --corpus"
    )
    return apt.fetch_packages(
        packages(language), downloads / f"corpus-{language}", instead
    )


def read_corpus(
    folder: Path, language: str
) -> tuple[list[Recording], Counter[str], int]:
    """Read the prompts of a language below ``folder``.

    Returns:
        recordings, number of dropped prompts by reason, and prompts in the list.
    Raises:
        UserError: list or sound is missing, or more than a twentieth of the sound
            files, because the packages were unpacked incompletely.
    """
    list_path = find_list(folder, language)
    sounds = _find_sounds(folder, language)
    texts = read_transcripts(list_path)
    readings = symbol_readings(texts)
    recordings: list[Recording] = []
    dropped: Counter[str] = Counter()
    for name, raw in sorted(texts.items()):
        path = sounds / f"{name}.wav"
        text, reason = readable(raw[0], readings)
        reason = CONTRADICTION if len(raw) > 1 else reason
        if not path.is_file():
            dropped[NO_AUDIO] += 1
        elif reason or name.startswith("silence/"):
            dropped[reason or NOT_SPEECH] += 1
        else:
            recordings.append(Recording(name, text, path))
    if dropped[NO_AUDIO] * 20 > len(texts):
        raise UserError(
            f"{sounds}: {dropped[NO_AUDIO]} of the {len(texts)} sound files listed in "
            f"{list_path.name} are missing; unpack the packages again"
        )
    return recordings, dropped, len(texts)


def symbol_readings(texts: dict[str, list[str]]) -> dict[str, str]:
    """Return {symbol: words} of the ten digits, ``#`` and ``*``."""
    names = {str(n): f"digits/{n}" for n in range(10)} | SYMBOL_NAMES
    return {symbol: texts.get(name, [""])[0] for symbol, name in names.items()}


def find_list(folder: Path, language: str) -> Path:
    """Find the list of transcripts below ``folder``."""
    lists = sorted(folder.rglob(f"core-sounds-{language}.txt*"))
    if not lists:
        raise UserError(
            f"{folder}: no core-sounds-{language}.txt.gz below it; unpack "
            f"{' and '.join(packages(language))} there, or name another --corpus"
        )
    return lists[0]


def _find_sounds(folder: Path, language: str) -> Path:
    """Find the folder of a language's sound files, to which names are relative.

    It is the one with ``digits/1.wav``. If several languages are there, their folders
    have names such as ``en_US_f_Allison``.
    """
    folders = [path.parent.parent for path in sorted(folder.rglob("digits/1.wav"))]
    if len(folders) > 1:
        own = re.compile(rf"{language}([_-].*)?$")
        folders = [path for path in folders if own.match(path.name)]
    if not folders:
        raise UserError(
            f"{folder}: no digits/1.wav of language {language} below it; unpack "
            f"{packages(language)[1]} there, or name another --corpus"
        )
    return folders[0]


def read_transcripts(path: Path) -> dict[str, list[str]]:
    """Read the different texts of each name from ``name: text`` lines.

    The file may be gzipped; ``;`` starts a comment line.

    Raises:
        UserError: the file is truncated or has other lines.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    texts: dict[str, list[str]] = {}
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            lines = stream.read().splitlines()
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: broken ({error}); get the file again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        name, colon, text = line.partition(":")
        if not colon:
            raise UserError(
                f"{path}, line {number}: no 'name: text': {line.strip()[:60]!r}"
            )
        known = texts.setdefault(name.strip(), [])
        if text.strip() not in known:
            known.append(text.strip())
    return texts


def readable(raw: str, readings: dict[str, str]) -> tuple[str, str]:
    """Return the spoken words of a transcript and "", or "" and the reason.

    Words are lower-case, with the apostrophe as the only mark. Ambiguous texts are
    rejected: ``500`` may be spoken as two words or as three.

    Args:
        raw: text of the list.
        readings: words of single digits and symbols.
    """
    remarks = re.findall(r"[\[(<].*?[\])>]", raw)
    text = re.sub(r"[\[(<].*?[\])>]", " ", raw).replace("\u2019", "'").lower().strip()
    if not re.search(r"\w", text):
        return "", NOT_SPEECH
    if any(re.search(r"\w", remark) for remark in remarks):
        return "", REMARK
    for wrong, right in CORRECTIONS.items():
        text = text.replace(wrong, right)
    # Initials such as "a.m." are spoken as letters.
    text = re.sub(r"\b(?:\w\.){2,}", lambda m: m[0].replace(".", " "), text)
    text = re.sub(r"(?<!\S)([\d#*])(?=[\s.,;!?]|$)", lambda m: readings[m[1]], text)
    if re.search(r"[\d#*@%&_/]|\w\.\w", text):
        return "", AMBIGUOUS
    words = re.sub(r"[^\w']|(?<!\w)'|'(?!\w)", " ", text).split()
    return " ".join(words), ""

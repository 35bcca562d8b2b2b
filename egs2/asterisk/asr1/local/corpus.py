"""The corpus as it is published: where its packages come from, what each file says.

A distribution package holds the sound files and another one a list ``name: text``.
Names are the same in every language (``digits/7``, ``letters/q``, ``vm-goodbye``);
texts are in that language and were written for people: numerals, symbols, remarks in
brackets. :func:`read_corpus` gives back only what can be read in one way.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from espnet_mtla.data import debian as apt
from espnet_mtla.errors import UserError

# Slips of the pen in the English list; what is heard was checked nowhere else.
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
    """One prompt: its name in the list, lower-case words, sound file."""

    name: str
    text: str
    path: Path


def packages(language: str) -> list[str]:
    """The two packages of a language: transcripts, then sound."""
    return [f"asterisk-core-sounds-{language}", f"asterisk-core-sounds-{language}-wav"]


def fetch_packages(language: str, downloads: Path) -> Path:
    """Download and unpack a language's packages; return the folder they lie in.

    Works without root. A folder that is already there is complete, for it is renamed
    into place last, and is returned as it is. Raises UserError, naming the packages and
    the option for a folder of one's own, where apt is missing or fails.
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
    """Recordings below ``folder``, what was left out and why, and lines in the list.

    The list may be gzipped or not. Raises UserError when list or sound is missing, or
    when a twentieth of the sound files is: then the folder was not unpacked to the end.
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
    """How a language says single digits and the two keys beside them."""
    names = {str(n): f"digits/{n}" for n in range(10)} | SYMBOL_NAMES
    return {symbol: texts.get(name, [""])[0] for symbol, name in names.items()}


def find_list(folder: Path, language: str) -> Path:
    """The transcript list below ``folder``."""
    found = sorted(folder.rglob(f"core-sounds-{language}.txt*"))
    if not found:
        raise UserError(
            f"{folder}: no core-sounds-{language}.txt.gz below it; unpack "
            f"{' and '.join(packages(language))} there, or name another --corpus"
        )
    return found[0]


def _find_sounds(folder: Path, language: str) -> Path:
    """The folder that sound files are named from, for one language.

    It is known by ``digits/1.wav``. Several languages may lie side by side, in folders
    such as ``en_US_f_Allison``.
    """
    found = [path.parent.parent for path in sorted(folder.rglob("digits/1.wav"))]
    if len(found) > 1:
        own = re.compile(rf"{language}([_-].*)?$")
        found = [path for path in found if own.match(path.name)]
    if not found:
        raise UserError(
            f"{folder}: no digits/1.wav of language {language} below it; unpack "
            f"{packages(language)[1]} there, or name another --corpus"
        )
    return found[0]


def read_transcripts(path: Path) -> dict[str, list[str]]:
    """The different texts of each name, as they stand in ``name: text`` lines.

    ``;`` starts a comment line. Raises UserError for a file that is cut short or has
    other lines.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    texts: dict[str, list[str]] = {}
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            lines = stream.read().splitlines()
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
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
    """Words of a transcript, or the reason why it has none to offer.

    ``readings`` gives the words of single digits and symbols. Words come lower-case,
    with the apostrophe as the only mark. A text is refused rather than guessed at:
    whether ``500`` was said as two words or three, a list of texts cannot tell.
    """
    remarks = re.findall(r"[\[(<].*?[\])>]", raw)
    text = re.sub(r"[\[(<].*?[\])>]", " ", raw).replace("\u2019", "'").lower().strip()
    if not re.search(r"\w", text):
        return "", NOT_SPEECH
    if any(re.search(r"\w", remark) for remark in remarks):
        return "", REMARK
    for wrong, right in CORRECTIONS.items():
        text = text.replace(wrong, right)
    # Initials such as "a.m." are said one by one.
    text = re.sub(r"\b(?:\w\.){2,}", lambda m: m[0].replace(".", " "), text)
    text = re.sub(r"(?<!\S)([\d#*])(?=[\s.,;!?]|$)", lambda m: readings[m[1]], text)
    if re.search(r"[\d#*@%&_/]|\w\.\w", text):
        return "", AMBIGUOUS
    words = re.sub(r"[^\w']|(?<!\w)'|'(?!\w)", " ", text).split()
    return " ".join(words), ""

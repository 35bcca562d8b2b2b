"""The game's packages: spoken lines with their texts, for each level and language.

``sound/LEVEL/LANG/KEY.ogg`` is a line spoken in Czech (cs) or Dutch (nl), and
``script/LEVEL/*dialogs_LANG.lua`` has the texts of a level in one language.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dialogs import Line, read_dialogs

from espnet_mtla.data import debian
from espnet_mtla.data.corpus import plain_words
from espnet_mtla.errors import UserError

SPOKEN = ("cs", "nl")
# Languages of the texts; English, the original, is in each list beside the text.
TRANSLATIONS = ("bg", "cs", "de", "es", "fr", "it", "nl", "pl", "ru", "sv")
WRITTEN = ("en", *TRANSLATIONS)
PACKAGES = ("fillets-ng-data", "fillets-ng-data-cs", "fillets-ng-data-nl")
# Lines with a recording and a text in its language, in version 1.0.1 of the packages.
EXPECTED = {"cs": 1725, "nl": 1528}
# Digits, placeholders and paths, and letters beyond Latin Extended-A.
_UNREADABLE = re.compile(r"[\d%/\\]|[^\W\d_a-z\u00df-\u017f]")


@dataclass(frozen=True)
class Recording:
    """A spoken line: its texts by language, the spoken language among them."""

    level: str
    name: str
    language: str
    font: str
    texts: dict[str, str]
    path: Path

    @property
    def speaker(self) -> str:
        """Language and character, such as ``nl-small``."""
        return f"{self.language}-{self.font.removeprefix('font_') or 'unnamed'}"

    @property
    def key(self) -> str:
        """Utterance key; it begins with the speaker."""
        return f"{self.speaker}-{self.level}-{self.name}"

    @cached_property
    def words(self) -> str:
        """The words spoken, lower-case and without punctuation."""
        return plain_words(self.texts[self.language])

    @cached_property
    def digest(self) -> str:
        """Hash of the sound file: equal files are one recording."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def seconds(self) -> float:
        """Length of the sound; raises UserError if it cannot be read."""
        import soundfile

        try:
            return float(soundfile.info(self.path).duration)
        except soundfile.SoundFileError as error:
            raise UserError(
                f"{self.path}: no sound ({error}); unpack the package again"
            ) from None

    def marks(self) -> set[tuple[str, str]]:
        """Return what must be in one set only: the sound, and words by language."""
        words = {(lang, plain_words(text)) for lang, text in self.texts.items()}
        return {("sound", self.digest)} | {mark for mark in words if mark[1]}


def is_readable(text: str) -> bool:
    """Return True if the words spoken are certain: no digits, slashes, other scripts.

    >>> is_readable("A%1."), is_readable("P\u0159\u00edli\u0161 drah\u00e9.")
    (False, True)
    """
    return not _UNREADABLE.search(unicodedata.normalize("NFC", text).lower())


def fetch(downloads: Path) -> Path:
    """Download and unpack the packages with apt; return the folder."""
    instead = (
        f"unpack the Debian packages {', '.join(PACKAGES)} into a folder by other "
        "means and name it with --corpus"
    )
    return debian.fetch_packages(PACKAGES, downloads / "corpus", instead)


def find_game(folder: Path) -> Path:
    """Return the folder of ``sound`` and ``script`` below ``folder``."""
    for script in sorted(folder.rglob("fillets-ng/script")):
        if (script.parent / "sound").is_dir():
            return script.parent
    raise UserError(
        f"{folder}: no fillets-ng/script and fillets-ng/sound below it; unpack "
        f"{', '.join(PACKAGES)} there, or name another --corpus"
    )


def read_texts(game: Path, level: str, language: str) -> dict[str, Line]:
    """Return the lines of a level with one text in a language, by key.

    Empty texts, and a key with two different texts, are left out.
    """
    lines: dict[str, Line] = {}
    contradictory: set[str] = set()
    for path in sorted((game / "script" / level).glob(f"*dialogs_{language}.lua")):
        for line in read_dialogs(path)[0]:
            if line.text.strip():
                first = lines.setdefault(line.key, line)
                if first.text != line.text:
                    contradictory.add(line.key)
    return {key: line for key, line in lines.items() if key not in contradictory}


def read_recordings(game: Path, language: str) -> tuple[list[Recording], int]:
    """Return the lines spoken in a language that have its text, and the files found.

    Raises:
        UserError: the game has no sound in this language.
    """
    recordings = []
    files = sorted(game.glob(f"sound/*/{language}/*.ogg"))
    if not files:
        raise UserError(
            f"{game}: no sound/LEVEL/{language}/KEY.ogg; unpack "
            f"fillets-ng-data-{language} there, too"
        )
    tables: dict[tuple[str, str], dict[str, Line]] = {}
    for path in files:
        level = path.parts[-3]
        for lang in TRANSLATIONS:
            if (level, lang) not in tables:
                tables[level, lang] = read_texts(game, level, lang)
        own = tables[level, language].get(path.stem)
        if own is None:
            continue
        texts = {
            lang: " ".join(tables[level, lang][path.stem].text.split())
            for lang in TRANSLATIONS
            if path.stem in tables[level, lang]
        }
        texts["en"] = " ".join(own.english.split())
        recordings.append(
            Recording(level, path.stem, language, own.speaker, texts, path)
        )
    return recordings, len(files)

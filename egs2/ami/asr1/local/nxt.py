"""Readers of AMI's manual annotations (NXT XML, one file per agent and layer).

An agent is a letter, a seat at the table; ``meetings.xml`` has the speaker and headset
channel of each. The words layer lists words, other sounds, gaps and marks in the order
in which they were heard. A segment is a range of that list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from espnet_mtla.data.corpus import require_file
from espnet_mtla.errors import UserError

_NITE = "{http://nite.sourceforge.net/}"
_HREF = re.compile(r"#id\(([^()]+)\)(?:\.\.id\(([^()]+)\))?$")


@dataclass(frozen=True)
class Speaker:
    """Name of an agent of a meeting, and number of the headset's channel."""

    name: str
    channel: str


@dataclass(frozen=True)
class Segment:
    """A segment: times in seconds of the meeting, None if not annotated.

    ``ranges`` are first and last id in the words layer, both included.
    """

    name: str
    start: float | None
    end: float | None
    ranges: tuple[tuple[str, str], ...]


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root element; raise UserError if the file is missing or not XML."""
    try:
        return ElementTree.parse(require_file(path)).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # and encodings
        raise UserError(f"{path}: broken XML ({error}); get the file again") from None


def read_meetings(path: Path) -> dict[str, dict[str, Speaker]]:
    """Return {meeting: {agent: speaker}} from ``corpusResources/meetings.xml``."""
    meetings: dict[str, dict[str, Speaker]] = {}
    for meeting in read_xml(path).iter("meeting"):
        name = meeting.get("observation", "")
        agents = meetings.setdefault(name, {})
        for speaker in meeting.iter("speaker"):
            fields = [speaker.get(f) for f in ("nxt_agent", "global_name", "channel")]
            if not all(fields):
                raise UserError(
                    f"{path}: meeting {name}: a speaker without nxt_agent, global_name "
                    f"or channel: {speaker.attrib}"
                )
            agents[fields[0]] = Speaker(fields[1], fields[2])
    if not meetings:
        raise UserError(f"{path}: no <meeting> in it; get the file again")
    return meetings


def read_words(path: Path) -> dict[str, str]:
    """Return {id: word} in the order of the layer; "" for elements that are no word.

    Laughter, coughs, gaps, marks of disfluency and punctuation are no words. A
    truncated word is one, since it was heard. Times are ignored and may be missing.
    """
    words: dict[str, str] = {}
    for element in read_xml(path):
        name = element.get(f"{_NITE}id")
        if name is None:
            raise UserError(f"{path}: <{element.tag}> without nite:id")
        if name in words:
            raise UserError(f"{path}: {name} occurs twice")
        spoken = element.tag == "w" and element.get("punc") != "true"
        words[name] = clean("".join(element.itertext())) if spoken else ""
    return words


def clean(word: str) -> str:
    """Normalise a word to lower-case letters, digits and ``' - _ .``, or to "".

    Abbreviations keep their spelling ``t_v_``; dots occur in initials only. Without a
    letter or digit the result is empty.

    >>> clean("T_V_"), clean("Hello,"), clean("...")
    ('t_v_', 'hello', '')
    """
    word = word.lower().replace("\u2019", "'").replace("`", "'")
    kept = re.sub(r"[^\w'._-]", "", word).strip("-.")
    return kept if re.search(r"[^\W_]", kept) else ""


def read_segments(path: Path) -> list[Segment]:
    """Return the segments of one agent, in the order of the file."""
    segments = []
    for element in read_xml(path).iter("segment"):
        name = element.get(f"{_NITE}id", "?")
        ranges = []
        for child in element.iter(f"{_NITE}child"):
            href = child.get("href", "")
            match = _HREF.search(href)
            if not match:
                raise UserError(f"{path}: {name}: cannot read the href {href!r}")
            ranges.append((match[1], match[2] or match[1]))
        times = [
            _seconds(element.get(f"transcriber_{end}")) for end in ("start", "end")
        ]
        segments.append(Segment(name, *times, tuple(ranges)))
    return segments


def _seconds(value: str | None) -> float | None:
    """Round to milliseconds, the precision of ``segments``; None for no number."""
    try:
        return round(float(value), 3) if value is not None else None
    except ValueError:
        return None


class Words:
    """The words layer of one agent, for segments given by ids."""

    def __init__(self, path: Path) -> None:
        words = read_words(path)
        self._words = list(words.values())
        self._place = {name: place for place, name in enumerate(words)}

    def cut(self, ranges: tuple[tuple[str, str], ...]) -> str:
        """Return the words of the ranges; raise KeyError for an id not in the layer."""
        cut: list[str] = []
        for first, last in ranges:
            cut += self._words[self._place[first] : self._place[last] + 1]
        return " ".join(filter(None, cut))

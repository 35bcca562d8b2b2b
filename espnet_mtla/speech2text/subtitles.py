"""Transcripts as files: plain text, JSON, SubRip (SRT), WebVTT."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from espnet_mtla.speech2text.result import Transcript, Word

LONGEST_LINE = 42
"""Characters in a line of a subtitle; a subtitle has at most two lines."""
LONGEST_SECONDS = 7.0
LONGEST_PAUSE = 1.0
"""Seconds of silence between two words after which a new subtitle begins."""
SHORTEST_SECONDS = 0.7
"""A subtitle is shown at least so long, unless the next one begins earlier."""


def as_text(transcript: Transcript) -> str:
    """Return the text and a line end."""
    return transcript.text + "\n"


def as_json(transcript: Transcript) -> str:
    """Return a line of JSON."""
    return json.dumps(transcript.as_dict(), ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """Return numbered subtitles with their times; the transcript must have words."""
    blocks = [
        f"{number}\n{clock(one.start)} --> {clock(one.end)}\n{one.text}\n"
        for number, one in enumerate(subtitles(transcript), 1)
    ]
    return "\n".join(blocks)


def as_vtt(transcript: Transcript) -> str:
    """Return subtitles as WebVTT; the transcript must have words."""
    blocks = [
        f"{clock(one.start, '.')} --> {clock(one.end, '.')}\n{_escaped(one.text)}\n"
        for one in subtitles(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _escaped(text: str) -> str:
    """Escape the characters that begin a tag or an entity in WebVTT."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Subtitle:
    """Lines shown from ``start`` to ``end`` seconds, and the words in them."""

    start: float
    end: float
    text: str
    words: Sequence[Word]


def subtitles(transcript: Transcript) -> list[Subtitle]:
    """Return the subtitles of a transcript, which must have words."""
    if transcript.words is None:
        raise ValueError("subtitles need timestamps")
    groups = list(group(transcript.words))
    starts = [words[0].start for words in groups] + [float("inf")]
    shown = []
    for words, following in zip(groups, starts[1:], strict=True):
        end = max(words[-1].end, words[0].start + SHORTEST_SECONDS)
        end = max(min(end, following), words[-1].end)
        lines = "\n".join(wrapped([word.text for word in words]))
        shown.append(Subtitle(words[0].start, end, lines, words))
    return shown


def group(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the words of each subtitle, limited in length and split at pauses."""
    current: list[Word] = []
    for word in words:
        if current:
            lines = wrapped([w.text for w in [*current, word]])
            too_long = word.end - current[0].start > LONGEST_SECONDS
            pause = word.start - current[-1].end > LONGEST_PAUSE
            if len(lines) > 2 or too_long or pause:
                yield current
                current = []
        current.append(word)
    if current:
        yield current


def wrapped(words: Sequence[str]) -> list[str]:
    """Return lines of at most :data:`LONGEST_LINE` characters; words are not split."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= LONGEST_LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def clock(seconds: float, mark: str = ",") -> str:
    """Return a time as SubRip writes it; with the mark ``.``, as WebVTT does.

    >>> clock(3661.5)
    '01:01:01,500'
    """
    total, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(total, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{mark}{thousandths:03d}"


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "plain": as_text,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
}

"""A made-up AMI: headsets and an array, and NXT XML with all that the real one has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import soundfile

from test.support.corpus_sound import FS, speech_like

MEETINGS = {"train": "ES2002a", "dev": "ES2011a", "eval": "ES2004a"}
HEAD = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
NITE = 'xmlns:nite="http://nite.sourceforge.net/"'
CHANNELS = {"A": 1, "B": 0}
"""Agents are not in the order of the headsets."""
SENTENCES = (
    "Okay so the caf&#233; opens",
    "right we have twenty minutes",
    "the T_V_ remote control",
    "I think it's well-known",
)


def write_ami(corpus: Path, segments: int = 6, seconds: float = 30.0) -> Path:
    """``amicorpus`` and the annotations below ``corpus``, one meeting a set, two agents
    who take turns: segment n lasts from 2 n + 0.5 s to 2 n + 2 s for A, a second later
    for B; returns the annotations' folder."""
    annotations = corpus / "ami_public_manual_1.6.2"
    for meeting in MEETINGS.values():
        write_sounds(corpus / "amicorpus" / meeting / "audio", meeting, seconds)
        for late, agent in enumerate(CHANNELS):
            words, cuts = [], []
            for n in range(segments):
                texts = SENTENCES[(n + late) % len(SENTENCES)].split()
                first = len(words)
                start = 2 * n + 0.5 + late
                words += [(text, start) for text in texts] + [(".", None)]
                cuts.append((start, start + 1.5, first, len(words) - 1))
            write_layers(annotations, meeting, agent, [w for w, _ in words], cuts)
    write_meetings(annotations)
    return annotations


def write_sounds(folder: Path, meeting: str, seconds: float) -> None:
    """A headset for each agent; eight microphones, each a sample later than before."""
    folder.mkdir(parents=True)
    voices = [speech_like(seconds, seed) for seed in range(len(CHANNELS))]
    for number, voice in enumerate(voices):
        soundfile.write(folder / f"{meeting}.Headset-{number}.wav", voice, FS)
    room = 0.3 * sum(voices)
    for number in range(8):
        path = folder / f"{meeting}.Array1-{number + 1:02d}.wav"
        soundfile.write(path, np.roll(room, number), FS)


def write_layers(
    annotations: Path,
    meeting: str,
    agent: str,
    words: Sequence[str],
    cuts: Sequence[tuple[float, float, int, int]],
) -> None:
    """Words in XML's own spelling, a dot is punctuation; cuts name first and last."""
    stem = f"{meeting}.{agent}"
    lines = []
    for n, word in enumerate(words):
        punctuation = ' punc="true"' if word == "." else ""
        lines.append(
            f'   <w nite:id="{stem}.words{n}" starttime="{n}.0" endtime="{n}.5"'
            f"{punctuation}>{word}</w>"
        )
    write_layer(annotations, "words", stem, lines)
    lines = [segment(stem, n, *cut) for n, cut in enumerate(cuts)]
    write_layer(annotations, "segments", stem, lines)


def segment(
    stem: str, n: int, start: object, end: object, first: int, last: int
) -> str:
    """A segment in the corpus's spelling; one word is named without a range."""
    until = "" if first == last else f"..id({stem}.words{last})"
    return (
        f'   <segment nite:id="{stem}.sync.{n}" channel="0" transcriber_start="{start}"'
        f' transcriber_end="{end}">\n      <nite:child '
        f'href="{stem}.words.xml#id({stem}.words{first}){until}"/>\n   </segment>'
    )


def write_layer(annotations: Path, layer: str, stem: str, lines: Sequence[str]) -> Path:
    path = annotations / layer / f"{stem}.{layer}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(lines)
    root = f'<nite:root nite:id="{stem}.{layer}" {NITE}>\n{body}\n</nite:root>\n'
    path.write_text(HEAD + root, encoding="latin-1")
    return path


def write_meetings(annotations: Path) -> Path:
    """``meetings.xml``; a person is called after the meeting's place and the agent."""
    lines = []
    for meeting in MEETINGS.values():
        lines.append(f'   <meeting nite:id="m_{meeting}" observation="{meeting}">')
        for agent, channel in CHANNELS.items():
            name = escape(f"M{meeting[:3]}{agent}")
            lines.append(
                f'      <speaker nxt_agent="{agent}" global_name="{name}" '
                f'channel="{channel}" role="PM"/>'
            )
        lines.append("   </meeting>")
    path = annotations / "corpusResources" / "meetings.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"{HEAD}<nite:root {NITE}>\n" + "\n".join(lines) + "\n</nite:root>\n"
    )
    return path

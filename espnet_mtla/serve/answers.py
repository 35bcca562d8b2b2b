"""Transcripts as the bodies of answers, in the forms of OpenAI's API."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from espnet_mtla.serve.form import Form
from espnet_mtla.speech2text.subtitles import as_srt, as_vtt, subtitles

if TYPE_CHECKING:
    from espnet_mtla.speech2text.result import Transcript

TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
"""Media type of each ``response_format``."""


def body(transcript: Transcript, form: Form, task: str, language: str | None) -> str:
    """Return the body of an answer.

    Args:
        transcript: with words if the format has times.
        form: the fields of the request.
        task: ``transcribe`` or ``translate``.
        language: of the text; None: unknown.
    """
    if form.response_format == "text":
        return transcript.text + "\n"
    if form.response_format == "srt":
        return as_srt(transcript)
    if form.response_format == "vtt":
        return as_vtt(transcript)
    if form.response_format == "json":
        return _dump(_with_intent({"text": transcript.text}, transcript))
    return _dump(verbose(transcript, form.granularities, task, language))


def verbose(
    transcript: Transcript,
    granularities: tuple[str, ...],
    task: str,
    language: str | None,
) -> dict[str, object]:
    """Return the fields of ``verbose_json``.

    As in OpenAI's API, segments are the default, and words come if they are named.
    Fields of Whisper that a model here has no number for are left out.

    Args:
        transcript: with words.
        granularities: ``word``, ``segment``, both or none.
        task: ``transcribe`` or ``translate``.
        language: of the text; None: unknown.
    """
    fields: dict[str, object] = {
        "task": task,
        "language": language or "unknown",
        "duration": round(transcript.seconds, 3),
        "text": transcript.text,
    }
    if "segment" in granularities or not granularities:
        fields["segments"] = [
            {
                "id": number,
                "start": one.start,
                "end": one.end,
                "text": one.text.replace("\n", " "),
                "temperature": 0.0,
                "avg_logprob": sum(_log(word.confidence) for word in one.words)
                / len(one.words),
            }
            for number, one in enumerate(subtitles(transcript))
        ]
    if "word" in granularities:
        fields["words"] = [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "confidence": round(word.confidence, 4),
            }
            for word in transcript.words or ()
        ]
    return _with_intent(fields, transcript)


def _with_intent(
    fields: dict[str, object], transcript: Transcript
) -> dict[str, object]:
    """Add the intent, of a model of understanding."""
    intent = transcript.intent
    return fields if intent is None else {**fields, "intent": intent}


def _log(confidence: float) -> float:
    """Return a natural logarithm that JSON can express."""
    return math.log(max(confidence, 1e-10))


def event(fields: dict[str, object]) -> str:
    """Return a server-sent event.

    >>> event({"type": "transcript.text.delta", "delta": "a"})
    'data: {"type": "transcript.text.delta", "delta": "a"}\\n\\n'
    """
    return f"data: {_dump(fields)}\n\n"


def _dump(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False)

"""The form of a request, checked: every field is used, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from espnet_mtla.serve.errors import ApiError

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
TIMED = ("srt", "vtt", "verbose_json")
GRANULARITIES = "timestamp_granularities[]"
STREAMED = ("json", "text")
FIELDS = (
    *("file", "model", "language", "prompt", "response_format", "temperature"),
    *("stream", GRANULARITIES, "chunking_strategy"),
)
MOST_PHRASES = 100
LONGEST_PROMPT = 4000
"""Characters of ``prompt``."""


@dataclass(frozen=True)
class Form:
    """The fields of a request beside its sound.

    Attributes:
        response_format: one of :data:`FORMATS`.
        phrases: hotwords, from ``prompt``.
        stream: answer by server-sent events.
        granularities: times of ``word`` or ``segment`` in verbose_json.
    """

    response_format: str = "json"
    phrases: tuple[str, ...] = ()
    stream: bool = False
    granularities: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether the answer has times of words."""
        return self.response_format in TIMED


def read_form(
    fields: Iterable[tuple[str, str]], model: str, language: str | None
) -> Form:
    """Check the fields of a form and return their values.

    Args:
        fields: names and values of all fields but the file.
        model: name of the model that is served.
        language: of the model; None: unknown.
    Raises:
        ApiError: a field is unknown, missing, given twice or out of range.
    """
    values: dict[str, str] = {}
    granularities: list[str] = []
    for name, value in fields:
        if name == GRANULARITIES:
            granularities.append(value)
        elif name not in FIELDS:
            known = ", ".join(FIELDS)
            raise ApiError(400, f"{_short(name)}: no such field; known: {known}", name)
        elif name in values:
            raise ApiError(400, f"{name}: given twice", name)
        else:
            values[name] = value
    _check_model(values.get("model"), model)
    _check_language(values.get("language"), language)
    _check_temperature(values.get("temperature", "0"))
    _one_of("chunking_strategy", values.get("chunking_strategy", "auto"), ("auto",))
    form = Form(
        _one_of("response_format", values.get("response_format", "json"), FORMATS),
        phrases_of(values.get("prompt", "")),
        _one_of("stream", values.get("stream", "false").lower(), ("true", "false"))
        == "true",
        tuple(_one_of(GRANULARITIES, g, ("word", "segment")) for g in granularities),
    )
    if form.stream and form.response_format not in STREAMED:
        raise ApiError(
            400,
            f"response_format {form.response_format}: cannot be streamed; "
            "json or text can",
            "response_format",
        )
    if granularities and form.response_format != "verbose_json":
        needed = "need response_format verbose_json"
        raise ApiError(400, f"timestamp_granularities: {needed}", GRANULARITIES)
    return form


def phrases_of(prompt: str) -> tuple[str, ...]:
    """Return the phrases of a prompt: they are separated by commas or line ends.

    >>> phrases_of("Ruth Benedict, chrysanthemum")
    ('Ruth Benedict', 'chrysanthemum')

    Raises:
        ApiError: there are too many, or the prompt is too long.
    """
    if len(prompt) > LONGEST_PROMPT:
        long = f"{len(prompt)} characters given, at most {LONGEST_PROMPT} are possible"
        raise ApiError(400, f"prompt: {long}", "prompt")
    split = (" ".join(one.split()) for one in re.split(r"[,;\n]", prompt))
    phrases = tuple(dict.fromkeys(one for one in split if one))
    if len(phrases) > MOST_PHRASES:
        many = f"{len(phrases)} phrases given, at most {MOST_PHRASES} are possible"
        raise ApiError(400, f"prompt: {many}", "prompt")
    return phrases


def _check_model(name: str | None, served: str) -> None:
    if not name:
        raise ApiError(400, f"model: missing; this server has {served}", "model")
    if name != served:
        message = f"model {_short(name)}: not found; this server has {served}"
        raise ApiError(404, message, "model", "model_not_found")


def _check_language(wanted: str | None, served: str | None) -> None:
    if not wanted or wanted == served:
        return
    if served is None:
        message = (
            "this server was not told the language of its model: leave the field out, "
            "or start it with --language"
        )
    else:
        message = f"{_short(wanted)} given, the model's is {served}"
    raise ApiError(400, f"language: {message}", "language")


def _check_temperature(text: str) -> None:
    try:
        zero = float(text) == 0
    except ValueError:
        zero = False
    if not zero:
        message = f"temperature: {_short(text)} given; the search takes no samples: 0"
        raise ApiError(400, message, "temperature")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        needed = f"one of {', '.join(choices)}" if choices[1:] else choices[0]
        raise ApiError(400, f"{name}: {_short(value)} given, {needed} is needed", name)
    return value


def _short(text: str) -> str:
    """Return a value as it is shown in a message: in quotes, and not too long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")

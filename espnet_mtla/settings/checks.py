"""Checks of settings, with one form of message: FIELD: VALUE given, NEEDED needed.

Values count, not types: NumPy's and torch's numbers are numbers.
"""

from __future__ import annotations

import inspect
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from typing import Any

from espnet_mtla.errors import UserError


def plain(value: Any) -> Any:
    """Return Python's own number for one of any library, and other values unchanged."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # of numpy or torch
    # A tuple: the compiler of torch 2.7 does not know unions of types.
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _plain_field(settings: object, field: str) -> Any:
    """Return a field's value, after replacing a number of numpy or torch in it.

    Those work in arithmetic, but not in JSON or YAML.
    """
    original = getattr(settings, field)
    value = plain(original)
    if value is not original:
        object.__setattr__(settings, field, value)  # of a frozen dataclass, too
    return value


def require(condition: bool, field: str, value: object, needed: str) -> None:
    """Raise :class:`UserError` naming the field unless ``condition`` holds.

    ``needed`` includes a verb, such as "an even number is".
    """
    if not condition:
        raise UserError(f"{field}: {value!r} given, {needed} needed")


def refuse_unknown(
    call: Callable[..., object], others: Iterable[str], allowed: Collection[str] = ()
) -> None:
    """Refuse unknown keywords of a call, whatever their values.

    Args:
        call: the function or method that was called.
        others: its keywords beside its named parameters.
        allowed: keywords among ``others`` that are accepted.

    Raises:
        UserError: names the unknown keywords and the known ones.
    """
    unknown = [name for name in others if name not in allowed]
    if not unknown:
        return
    parameters = inspect.signature(call).parameters.values()
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in parameters if p.kind in named and p.name != "self"]
    raise UserError(
        f"{call.__qualname__}: unknown keyword {', '.join(map(repr, unknown))}; known: "
        f"{', '.join([*known, *allowed])}"
    )


def whole_number(value: Any, field: str, least: int = 1) -> int:
    """Return a whole number of Python, numpy or torch as Python's own.

    Raises:
        UserError: it is not a whole number, or below ``least``.
    """
    number = plain(value)
    whole = isinstance(number, int) and not isinstance(number, bool)
    require(whole and number >= least, field, value, f"a whole number >= {least} is")
    return int(number)


def check_count(
    settings: object, *fields: str, least: int = 1, prefix: str = ""
) -> None:
    """Require whole numbers of at least ``least``; numpy's become Python's own.

    ``prefix``, here and below, precedes the field's name in the message.
    """
    for field in fields:
        whole_number(_plain_field(settings, field), prefix + field, least)


def check_number(settings: object, *fields: str, inside: str, prefix: str = "") -> None:
    """Require numbers ``inside`` an interval such as ``[0, 1)`` or ``(0, inf)``.

    Numbers of numpy or torch become Python's own.
    """
    low, high = (float(bound) for bound in inside[1:-1].split(","))
    for field in fields:
        value = _plain_field(settings, field)
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        fine = fine and (
            low < value < high
            or (value == low and inside[0] == "[")
            or (value == high and inside[-1] == "]")
        )
        require(fine, prefix + field, value, f"a number in {inside} is")


def check_choice(
    settings: object, field: str, choices: Collection[str | None], prefix: str = ""
) -> None:
    """Require one of ``choices``; messages write None as YAML does."""
    value = _plain_field(settings, field)
    shown = ", ".join("null" if choice is None else choice for choice in choices)
    fine = (value is None or isinstance(value, str)) and value in choices
    require(fine, prefix + field, value, f"one of {shown} is")


def check_flags(settings: object, *fields: str, prefix: str = "") -> None:
    """Require true or false; numpy's become Python's own."""
    for field in fields:
        value = _plain_field(settings, field)
        require(isinstance(value, bool), prefix + field, value, "true or false is")


def count(text: str) -> int:
    """Parse a whole number >= 1, as a type of ``argparse``."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} given, a whole number >= 1 is needed")
    return int(text)


def true_or_false(text: str) -> bool:
    """Parse true or false, as a type of ``argparse``."""
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"{text!r} given, true or false is needed")
    return text.lower() == "true"

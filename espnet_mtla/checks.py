"""Checks of settings, all in the same words: what was given, and what is needed.

They look at a value's meaning, not its type: a number of NumPy is a number.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Collection
from numbers import Integral, Real

from espnet_mtla.errors import UserError


def require(condition: bool, field: str, value: object, needed: str) -> None:
    """Raise :class:`UserError` naming the field unless ``condition`` holds.

    ``needed`` brings its verb: ``an even number is``.
    """
    if not condition:
        raise UserError(f"{field}: {value!r} given, {needed} needed")


def whole_number(value: object, field: str, least: int = 1) -> int:
    """Return ``value`` as Python's int; NumPy's integers are whole numbers too.

    Raises:
        UserError: it is none, or below ``least``.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(value) if isinstance(value, Integral) else 0
    needed = f"a whole number >= {least} is"
    require(whole and number >= least, field, value, needed)
    return number


def check_count(
    settings: object, *fields: str, least: int = 1, prefix: str = ""
) -> None:
    """Require whole numbers of at least ``least``, and store them as Python's.

    ``prefix``, here and below, stands before a field's name in the message.
    """
    for field in fields:
        value = getattr(settings, field)
        _store(settings, field, value, whole_number(value, prefix + field, least))


def check_number(settings: object, *fields: str, inside: str, prefix: str = "") -> None:
    """Require numbers ``inside`` an interval such as ``[0, 1)`` or ``(0, inf)``.

    What is neither Python's int nor float, such as NumPy's float32, is stored as one.
    """
    low, high = (float(bound) for bound in inside[1:-1].split(","))
    for field in fields:
        value = getattr(settings, field)
        fine = isinstance(value, Real) and not isinstance(value, bool)
        fine = fine and (
            low < value < high
            or (value == low and inside[0] == "[")
            or (value == high and inside[-1] == "]")
        )
        require(fine, prefix + field, value, f"a number in {inside} is")
        number = int(value) if isinstance(value, Integral) else float(value)
        _store(settings, field, value, number)


def check_choice(
    settings: object, field: str, choices: Collection[str | None], prefix: str = ""
) -> None:
    """Require one of some words; None among them is shown as YAML writes it."""
    value = getattr(settings, field)
    shown = ", ".join("null" if choice is None else choice for choice in choices)
    fine = (value is None or isinstance(value, str)) and value in choices
    require(fine, prefix + field, value, f"one of {shown} is")
    _store(settings, field, value, None if value is None else str(value))


def check_flags(settings: object, *fields: str, prefix: str = "") -> None:
    """Require true or false, Python's or NumPy's."""
    for field in fields:
        value = getattr(settings, field)
        numpy = sys.modules.get("numpy")  # if it is not loaded, nothing is of it
        fine = isinstance(value, bool if numpy is None else (bool, numpy.bool_))
        require(fine, prefix + field, value, "true or false is")
        _store(settings, field, value, bool(value))


def _store(settings: object, field: str, value: object, plain: object) -> None:
    """Put ``plain`` in the place of an equal value of another type.

    Configurations are written to YAML and JSON, which know Python's types alone.
    """
    if type(value) is not type(plain):
        object.__setattr__(settings, field, plain)  # settings are frozen


def count(text: str) -> int:
    """A whole number from 1 on, for ``argparse``."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} given, a whole number >= 1 is needed")
    return int(text)


def true_or_false(text: str) -> bool:
    """An option's value as YAML and espnet2 write it, for ``argparse``."""
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"{text!r} given, true or false is needed")
    return text.lower() == "true"

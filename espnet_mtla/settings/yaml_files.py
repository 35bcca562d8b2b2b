"""YAML files of settings: reading, laying one over another, checking their keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_mtla.errors import UserError, no_file
from espnet_mtla.text_files import read_text

# These sections are replaced, not merged: the settings of one front-end are not valid
# for another.
REPLACED_WHOLE = frozenset({"frontend_conf"})

MOST_VALUES = 1_000_000
"""Largest number of values of a file, those repeated by aliases included."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a number and refuses a repeated key."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} cannot be a key", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is repeated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
"""Floats with an exponent. YAML 1.1, and so PyYAML, wants a dot and a sign in them."""
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    content = parse_yaml(read_text(path), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: keys and values are needed at the top level")
    return content


def parse_yaml(text: str, place: str) -> Any:
    """Parse YAML of plain values.

    Args:
        text: the YAML.
        place: file or option that it comes from, for the message.
    Raises:
        UserError: it is not YAML, or of values that are not plain.
    """
    try:
        # A SafeLoader: no tag can build another object or execute code.
        content = yaml.load(text, Loader=_Loader)
        values = _count_values(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{place}: {where}{problem}") from None
    except ValueError as error:  # of an impossible date, or a number too long
        raise UserError(f"{place}: not YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: nested too deeply, or contains itself") from None
    if values > MOST_VALUES:
        raise UserError(f"{place}: more than {MOST_VALUES} values, by its aliases")
    return content


def _count_values(content: object) -> int:
    """Count values, those that an alias repeats as often as they occur.

    Ten lines can stand for a billion values, each line made of aliases of the one
    before. Only a message that shows them all would use the memory.
    """
    counts: dict[int, int] = {}

    def count(value: object) -> int:
        if not isinstance(value, dict | list | set):
            return 1
        if id(value) not in counts:
            parts = value.values() if isinstance(value, dict) else value
            counts[id(value)] = 1 + sum(count(part) for part in parts)
        return counts[id(value)]

    return count(content)


def load_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that a user writes, laid over the file that its ``base`` names.

    ``base`` is a path relative to the file, and may have a base itself; see
    :func:`overlay` for how they join.

    Raises:
        UserError: a file is missing or wrong (:func:`load_yaml`), or is its own base.
    """
    layers: list[dict[str, Any]] = []
    files: list[Path] = []
    file: Path | None = Path(path)
    while file is not None:
        files.append(file)
        content = load_yaml(file)
        base = content.pop("base", None)
        layers.append(content)
        file = None if base is None else _base_file(base, files)
    config: dict[str, Any] = {}
    for layer in reversed(layers):
        config = overlay(config, layer)
    return config


def _base_file(base: object, files: list[Path]) -> Path:
    """Return the file that ``base`` names in the last of ``files``, each one's base."""
    if not isinstance(base, str):
        raise UserError(f"{files[-1]}: base: {base!r} given, a file's path is needed")
    file = files[-1].parent / base
    if not file.is_file():
        raise UserError(f"{files[-1]}: base: {file}: {no_file(file)}")
    if file.resolve() in [known.resolve() for known in files]:
        raise UserError(f"{files[-1]}: base: {file}: is based on this file itself")
    return file


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``top`` laid over ``base``: sections are merged, other values replaced.

    Sections in :data:`REPLACED_WHOLE` are replaced, too.

    >>> overlay({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}})
    {'a': {'x': 1, 'y': 4}, 'b': 3}
    """
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and key not in REPLACED_WHOLE
        ):
            merged[key] = overlay(old, value)
        else:
            merged[key] = value
    return merged


def check_keys(section: str, given: object, valid: Iterable[str]) -> None:
    """Raise :class:`UserError` unless every key of ``given`` is one of ``valid``.

    It names the key, close matches and the valid ones. ``section`` precedes the key.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"{section}: {given!r} given, keys and values are needed")
    known = sorted(valid)
    for key in given:
        if key not in known:
            prefix = f"{section}.{key}" if section else str(key)
            raise UserError(f"{prefix}: unknown key{_choices(str(key), known)}")


def _choices(key: str, known: list[str], most: int = 25) -> str:
    close = difflib.get_close_matches(key, known, n=3)
    text = f"; did you mean {' or '.join(close)}?" if close else ""
    if len(known) <= most:
        return f"{text}; valid: {', '.join(known) or 'none'}".replace("?;", "?")
    return text or "; train --help_all lists the valid ones"

"""Training YAML: reading, laying one file over another, and keys that must be known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_mtla.errors import UserError

# A fragment's value for these replaces the old one whole: the settings of one front-end
# mean nothing to another.
REPLACED_WHOLE = frozenset({"frontend_conf"})


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number and no key may stand twice."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML speaks, wants a dot and a sign in a float's exponent form.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        UserError: the file is missing, is no YAML, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            # The loader is a SafeLoader: it builds plain values alone.
            content = yaml.load(stream, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; a YAML file is needed") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}: {where}{problem}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: keys and values are needed at the top level")
    return content


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` laid over ``base``: sections are merged by key, other values replaced.

    Sections in :data:`REPLACED_WHOLE` are replaced, not merged.
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
    """Every key of ``given`` must be one of ``valid``.

    Raises:
        UserError: names the key, close matches first, then all valid ones.
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

"""Read text and JSON files: what is wrong with one is a line that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError, no_file


def read_text(path: str | Path, label: str = "") -> str:
    """Return the content of a UTF-8 file, without a byte-order mark.

    Args:
        path: the file.
        label: option or key that names it, for the message: ``"token_list: "``.
    Raises:
        UserError: the file is missing, a folder, unreadable, or not UTF-8.
    """
    # A pipe without a writer would be waited for; the shell's own <(...) has one.
    own = str(path).startswith(("/dev/", "/proc/"))
    if os.path.exists(path) and not os.path.isfile(path) and not own:
        raise UserError(f"{label}{path}: {no_file(path)}")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{label}{path}: {no_file(path)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{label}{path}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{label}{path}: {error.strerror}") from None


def read_json(path: str | Path, remedy: str = "") -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: the file.
        remedy: what to do about a broken file, for the message.
    Raises:
        UserError: the file cannot be read, or is not a JSON object.
    """
    content = parse_json(read_text(path), str(path), remedy)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object{remedy and f'; {remedy}'}")
    return content


def parse_json(text: str | bytes, place: str, remedy: str = "") -> Any:
    """Parse JSON.

    Args:
        text: JSON; bytes are UTF-8, with or without a byte-order mark.
        place: file, or file and line, for the message.
        remedy: what to do about it, for the message.
    Raises:
        UserError: it is not JSON, or too deeply nested.
    """
    advice = remedy and f"; {remedy}"
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"{place}: JSON that is nested too deeply{advice}") from None
    except ValueError as error:  # also bytes that are not UTF-8, and huge numbers
        raise UserError(f"{place}: not JSON ({error}){advice}") from None

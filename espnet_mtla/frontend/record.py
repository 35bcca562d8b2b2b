"""The record of the front-end that computed a folder's features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError

FRONTEND_RECORD = "frontend.json"
"""File in a folder of features: the front-end's name and settings."""


def check_made_by(
    folder: Path, frontend: str | None, settings: Mapping[str, object]
) -> None:
    """Require that a folder's features come from this front-end with these settings.

    Raises:
        UserError: they do not, or the folder has no record.
    """
    file = folder / FRONTEND_RECORD
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    expected = {"frontend": frontend, "frontend_conf": dict(settings)}
    digest = recorded.pop("checkpoint", "")
    if recorded == expected:
        return
    if digest and _same_checkpoint(recorded, expected, digest):
        return
    origin = json.dumps(recorded) if recorded else "an unknown front-end"
    raise UserError(
        f"{folder}: features of {origin}, and the model takes those of "
        f"{json.dumps(expected)}: dump them again, or train with frontend none"
    )


def _same_checkpoint(
    recorded: dict[str, Any], expected: dict[str, Any], digest: str
) -> bool:
    """Return True if both differ in the path of one and the same checkpoint alone."""
    from espnet_mtla.frontend.upstream import checkpoint_digest

    path = expected["frontend_conf"].get("path")
    moved = {**recorded["frontend_conf"], "path": path}
    same = recorded["frontend"] == expected["frontend"]
    same = same and moved == expected["frontend_conf"]
    return same and checkpoint_digest(path) == digest

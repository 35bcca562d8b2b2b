"""The record of the front-end that computed a folder's features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_mtla.errors import UserError
from espnet_mtla.settings.names import CHECKPOINT_KEYS
from espnet_mtla.text_files import read_json

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
    recorded = read_json(file, "dump the features again") if file.is_file() else {}
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
    frontend = expected["frontend"]
    key = CHECKPOINT_KEYS.get(frontend)
    if key is None or recorded["frontend"] != frontend:
        return False
    path = expected["frontend_conf"].get(key)
    moved = {**recorded["frontend_conf"], key: path}
    return moved == expected["frontend_conf"] and _digest(frontend, path) == digest


def _digest(frontend: str, path: str | None) -> str:
    """Return the hash of a checkpoint that ``identity`` of its front-end returns."""
    if frontend == "s3prl":
        from espnet_mtla.frontend.upstream import checkpoint_digest

        return checkpoint_digest(path)
    from espnet_mtla.frontend.encoder_folder import encoder_digest

    return encoder_digest(str(path))

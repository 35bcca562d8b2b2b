"""The record of the front-end that a folder's features were made with."""

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
    """Require that a folder's features were made by this front-end, set like this.

    Raises:
        UserError: they were not, or the folder does not say.
    """
    file = folder / FRONTEND_RECORD
    made = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    wanted = {"frontend": frontend, "frontend_conf": dict(settings)}
    digest = made.pop("checkpoint", "")
    if made == wanted or (digest and _same_checkpoint(made, wanted, digest)):
        return
    of = json.dumps(made) if made else "an unknown front-end"
    raise UserError(
        f"{folder}: features of {of}, and the model takes those of "
        f"{json.dumps(wanted)}: dump them again, or train with frontend none"
    )


def _same_checkpoint(made: dict[str, Any], wanted: dict[str, Any], digest: str) -> bool:
    """Whether both differ in where the same upstream lies, and in nothing else."""
    from espnet_mtla.frontend.upstream import checkpoint_digest

    path = wanted["frontend_conf"].get("path")
    moved = {**made["frontend_conf"], "path": path}
    same = made["frontend"] == wanted["frontend"] and moved == wanted["frontend_conf"]
    return same and checkpoint_digest(path) == digest

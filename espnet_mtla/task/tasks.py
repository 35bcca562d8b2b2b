"""The tasks by name; classes are imported on use."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from espnet_mtla.task.asr import ASRTask

TASKS = {
    "asr": "espnet_mtla.task.asr:ASRTask",
    "st": "espnet_mtla.task.st:STTask",
    "slu": "espnet_mtla.task.slu:SLUTask",
    "sum": "espnet_mtla.task.sum:SUMTask",
    "lm": "espnet_mtla.task.lm:LMTask",
}


def task_class(name: str) -> type[ASRTask]:
    """Import and return the class of one of :data:`TASKS`."""
    return cast("type[ASRTask]", resolve_name(TASKS[name]))

"""The tasks by name; a class is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.task.asr import ASRTask

TASKS = {
    "asr": "espnet_mtla.task.asr:ASRTask",
    "st": "espnet_mtla.task.st:STTask",
    "slu": "espnet_mtla.task.slu:SLUTask",
    "sum": "espnet_mtla.task.sum:SUMTask",
}


def task_class(name: str) -> type[ASRTask]:
    """The class of one of :data:`TASKS`."""
    module, attribute = TASKS[name].split(":")
    return getattr(import_module(module), attribute)

"""Transcribing from Python: a model's folder or name, then sound in and text out.

Importing the package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.speech2text.api import Speech2Text as Speech2Text
    from espnet_mtla.speech2text.result import Alternative as Alternative
    from espnet_mtla.speech2text.result import Transcript as Transcript
    from espnet_mtla.speech2text.result import Word as Word

_PUBLIC = {
    "Alternative": "result",
    "Speech2Text": "api",
    "Transcript": "result",
    "Word": "result",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

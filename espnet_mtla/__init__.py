"""Speech processing around decoder-only models with a KV cache small in width and time.

Importing this package imports nothing else: a public name is resolved when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet_mtla.attention import MultiheadAttention as MultiheadAttention
    from espnet_mtla.attention import (
        MultiheadLatentAttention as MultiheadLatentAttention,
    )
    from espnet_mtla.attention import (
        MultiheadTemporalLatentAttention as MultiheadTemporalLatentAttention,
    )
    from espnet_mtla.decoder import DecoderConfig as DecoderConfig
    from espnet_mtla.decoder import DecoderOnlyTransformer as DecoderOnlyTransformer
    from espnet_mtla.speech2text import Speech2Text as Speech2Text

__version__ = "0.2.0"

_PUBLIC = {
    "MultiheadAttention": "espnet_mtla.attention",
    "MultiheadLatentAttention": "espnet_mtla.attention",
    "MultiheadTemporalLatentAttention": "espnet_mtla.attention",
    "DecoderConfig": "espnet_mtla.decoder",
    "DecoderOnlyTransformer": "espnet_mtla.decoder",
    "Speech2Text": "espnet_mtla.speech2text",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""ESPnet's older networks: ``espnet.nets`` in 202511, ``espnet2.legacy.nets`` later."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType


def espnet_nets(name: str) -> ModuleType:
    """Import a module of them, under the name that the installed version has."""
    package = "espnet.nets" if find_spec("espnet.nets") else "espnet2.legacy.nets"
    return importlib.import_module(f"{package}.{name}")

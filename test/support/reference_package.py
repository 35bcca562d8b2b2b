"""The public ``mtla`` package, loaded by file: its ``__init__`` needs Transformers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load_peer(relative: str) -> ModuleType:
    """A module of the installed package, such as ``mtla/MTLA.py``."""
    spec = importlib.util.find_spec("mtla")
    if spec is None or spec.origin is None:
        pytest.fail("the test peer is missing; utils/test.sh installs mtla==0.3.2")
    path = Path(spec.origin).parent.parent / relative
    name = "peer_" + path.stem
    if name not in sys.modules:
        peer = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(peer)
        peer.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]

"""The scripts of the recipes, loaded as their stage finds them: by their folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def load_local() -> Callable[..., ModuleType]:
    """A script of a recipe's ``local``, under a name that no other recipe has."""

    def load(recipe: str, script: str = "prepare") -> ModuleType:
        local = ROOT / "egs2" / recipe / "local"
        name = f"{script}_{recipe.replace('/', '_')}"
        spec = importlib.util.spec_from_file_location(name, local / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(local))
        try:
            sys.modules[name] = module
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(local))
        return module

    return load

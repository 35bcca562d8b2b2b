"""The scripts of the recipes, loaded as their stage finds them: by their folder."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from test.support.recipe_runner import ROOT, Recipe


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


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], Recipe]:
    """A recipe with the pipeline, in a tree of its own around the real package."""

    def make(recipe: str) -> Recipe:
        tree = tmp_path / "tree"
        leave = shutil.ignore_patterns(
            "__pycache__", "data", "dump", "exp", "downloads"
        )
        for folder in ("TEMPLATE", recipe):
            copy = tree / "egs2" / folder
            shutil.copytree(ROOT / "egs2" / folder, copy, ignore=leave)
        for folder in ("conf", "utils", "espnet_mtla"):
            (tree / folder).symlink_to(ROOT / folder)
        return Recipe(tree / "egs2" / recipe, tree / "calls")

    return make

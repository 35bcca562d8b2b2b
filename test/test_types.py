"""What type checkers of users' code see of the package."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import espnet_mtla

PACKAGE = Path(espnet_mtla.__file__).parent


def test_the_package_says_that_it_has_types() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", ["espnet_mtla", "espnet_mtla.speech2text"])
def test_names_that_are_resolved_when_used_have_types(name: str) -> None:
    """Type checkers cannot follow ``__getattr__``; they read the guarded imports."""
    package = import_module(name)
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname: f"{node.module}.{alias.name}"
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(typed) == set(package._PUBLIC)
    for public, path in typed.items():
        module, _, attribute = path.rpartition(".")
        assert getattr(package, public) is getattr(import_module(module), attribute)

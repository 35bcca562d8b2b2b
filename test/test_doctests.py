"""The examples in docstrings of the whole package run, and print what they say."""

from __future__ import annotations

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

from test.support.repository import PACKAGE


def examples_in(path: Path) -> int:
    """Number of examples in a file's docstrings, counted without importing it."""
    parser, count = doctest.DocTestParser(), 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds):
            count += len(parser.get_examples(ast.get_docstring(node) or ""))
    return count


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if examples_in(path)]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_examples_of_docstrings(path: Path) -> None:
    result = doctest.testmod(import_module(module_name(path)))
    assert result.failed == 0
    # None is missed: doctest passes over what it does not take for the module's own.
    assert result.attempted == examples_in(path)


def test_pure_functions_of_the_attention_have_examples() -> None:
    with_examples = {module_name(path) for path in FILES}
    parts = ("rope", "merge", "decoding.layout", "decoding.timeline", "registry")
    assert {f"espnet_mtla.attention.{part}" for part in parts} <= with_examples

"""Reading Markdown: blocks of code, commands, links and headings."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from test.support.repository import ROOT


def fenced(text: str, language: str) -> list[str]:
    """Return the blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(document: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the command lines of a document, each with the folder it is typed in."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in fenced(text, "bash") for line in block.splitlines()]
    command = r"`((?:espnet-mtla|python -m espnet_mtla) [a-z_][^`\n]*)`"
    lines += re.findall(command, without_code(text))
    folder = ROOT
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["cd"]:
            folder = (folder / words[1]).resolve()
        elif words:
            yield folder, words


def links(text: str) -> list[tuple[str, str]]:
    """Return path and anchor of each link to a file.

    >>> links("[a](b.md#c) [d](https://e) [f](#g)")
    [('b.md', 'c'), ('', 'g')]
    """
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", without_code(text))
    return [(path, anchor) for path, anchor in found if "://" not in path]


def anchors(path: Path) -> set[str]:
    """Return what a link to a file can name: headings, or definitions in Python."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return set(_definitions(ast.parse(text).body))
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {_slug(heading) for heading in headings}


def _definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{node.name}.")


def _slug(heading: str) -> str:
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def table(text: str, mark: str) -> list[list[str]]:
    """Return the cells of each row of the table between two comments."""
    (block,) = re.findall(rf"<!-- {mark}:begin -->(.*)<!-- {mark}:end -->", text, re.S)
    rows = [line for line in block.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]

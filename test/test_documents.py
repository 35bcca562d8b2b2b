"""Commands, options, Python blocks and links in the documents are valid."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from test.support.markdown import anchors, commands, fenced, links
from test.support.repository import COMMANDS, ROOT, help_of, python, relative

DOCUMENTS = [
    path
    for path in (
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
        *(ROOT / "CHANGELOG.md", ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md"),
        *(ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))),
        *sorted(ROOT.glob("egs2/*/*/README.md")),
    )
    if path.exists()
]
PAGES = "../../actions/"
"""Pages that GitHub makes for a repository, wherever it is hosted."""


def check_options(words: list[str], text: str, where: str) -> None:
    for word in words:
        if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word):
            name = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
            assert re.search(rf"{name}\b", text), f"{where}: {name} is no option"


def check_command(name: str, arguments: list[str], where: str) -> None:
    """Require a command of the package, and options that its ``--help`` lists."""
    assert name in COMMANDS, where
    if name == "train":  # hands on to espnet2 what it does not know itself
        return
    text = help_of(sys.executable, "-m", f"espnet_mtla.bin.{name}")
    for part in arguments[:1]:  # a command may have subcommands
        if re.search(rf"^    {re.escape(part)}\b", text, re.M):
            text += help_of(sys.executable, "-m", f"espnet_mtla.bin.{name}", part)
    check_options(arguments, text, where)


def check_script(words: list[str], folders: list[Path], where: str) -> None:
    """Require an executable script, and options that its ``--help`` lists."""
    scripts = [folder / words[0] for folder in folders if (folder / words[0]).exists()]
    assert scripts and os.access(scripts[0], os.X_OK), f"{where}: no such script"
    if scripts[0].parent.name != ".ci" and scripts[0].name != "test.sh":
        check_options(words[1:], help_of(str(scripts[0])), where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_commands_in_documents_exist_with_their_options(document: Path) -> None:
    for folder, words in commands(document):
        where = f"{relative(document)}: {' '.join(words)}"
        if words[1:3] == ["-m", "espnet_mtla"]:  # without installation
            words = ["espnet-mtla", *words[3:]]
        if words[0] == "espnet-mtla":
            check_command(words[1], words[2:], where)
        elif words[0].endswith((".sh", "/run")):
            check_script(words, [folder, document.parent, ROOT], where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_python_in_documents_runs(document: Path) -> None:
    for block in fenced(document.read_text(encoding="utf-8"), "python"):
        python(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_in_documents_lead_somewhere(document: Path) -> None:
    for target, anchor in links(document.read_text(encoding="utf-8")):
        where = f"{relative(document)}: {target}#{anchor}"
        path = document.parent / target if target else document
        assert target.startswith(PAGES) or path.exists(), where
        if anchor:
            assert anchor in anchors(path), f"{where}: no such heading or definition"


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_documents_name_the_installed_command(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert "python -m espnet_mtla.bin" not in text, "write espnet-mtla NAME"

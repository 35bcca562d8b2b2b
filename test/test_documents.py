"""What the documents show works: commands, options, Python, links."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from test.support.repository import COMMANDS, ROOT, help_of, python, relative

DOCUMENTS = [
    path
    for path in (
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
        *(ROOT / "CHANGELOG.md", ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md"),
        *ROOT.glob("egs2/*/*/README.md"),
    )
    if path.exists()
]
PAGES = "../../actions/"
"""Pages that GitHub makes for a repository, wherever it stands."""


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown_commands(document: Path) -> Iterator[tuple[Path, list[str]]]:
    """Command lines in a document, each with the folder that it is typed in."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in fenced(text, "bash") for line in block.splitlines()]
    lines += re.findall(r"`(python3? -m espnet_mtla\.[^`\n]*)`", text)
    folder = ROOT
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["cd"]:
            folder = (folder / words[1]).resolve()
        elif words:
            yield folder, words


def check_options(shown: list[str], text: str, where: str) -> None:
    for word in shown:
        if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word):
            name = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
            assert re.search(rf"{name}\b", text), f"{where}: {name} is no option"


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_commands_in_documents_exist_with_their_options(document: Path) -> None:
    for folder, words in shown_commands(document):
        where = f"{relative(document)}: {' '.join(words)}"
        if words[0].lstrip("./").startswith("python") and words[1] == "-m":
            module = words[2]
            if module.startswith("espnet_mtla."):
                assert module.split(".")[-1] in COMMANDS, where
                # What train does not know itself, it hands on to espnet2.
                if not module.endswith(".train"):
                    text = help_of(sys.executable, "-m", module)
                    for part in words[3:4]:  # a command may have commands
                        if re.search(rf"^    {re.escape(part)}\s", text, re.M):
                            text += help_of(sys.executable, "-m", module, part)
                    check_options(words[3:], text, where)
        elif words[0].endswith((".sh", "/run")):
            script = next(
                (
                    base / words[0]
                    for base in (folder, document.parent, ROOT)
                    if (base / words[0]).exists()
                ),
                None,
            )
            assert script and os.access(script, os.X_OK), f"{where}: no such script"
            if script.parent.name != ".ci" and script.name != "test.sh":
                check_options(words[1:], help_of(str(script)), where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_python_in_documents_runs(document: Path) -> None:
    for block in fenced(document.read_text(encoding="utf-8"), "python"):
        python(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_in_documents_lead_somewhere(document: Path) -> None:
    text = re.sub(
        r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith(PAGES):
            assert (document.parent / target).exists(), (
                f"{relative(document)}: {target}"
            )

"""MkDocs hook: pages of the documentation may link to any file of the repository.

A page links to a file by its path (``../espnet_mtla/attention/merge.py``), which works
on GitHub, and to a definition in it by name (``...merge.py#running_sums``). MkDocs
serves nothing outside ``docs``. This hook therefore adds a page ``source/PATH.md`` for
each file that is linked to, with a heading for each definition of a Python file, and
rewrites the links. What does not exist fails the build.

It also replaces the line ``<!-- insert: PATH -->`` by a file, and with ``PATH#results``
by the results block of a README, so that a table is written once.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]*)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"(^ *(?:`{3,}).*?^ *`{3,}$)", re.MULTILINE | re.DOTALL)
INSERT = re.compile(r"^<!-- insert: (\S+?)(#results)? -->$", re.MULTILINE)
RESULTS = re.compile(r"<!-- results:begin -->\n(.*?)<!-- results:end -->", re.DOTALL)
HEADING = re.compile(r"^(#+ )", re.MULTILINE)
BADGE = re.compile(r"^.*\]\(\.\./\.\./actions/.*\n", re.MULTILINE)
"""A link to a page that GitHub makes for the repository."""
LANGUAGES = {".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}


def resolve(target: str, folder: str) -> str:
    """Return the path in the repository that a link in ``folder`` leads to.

    >>> resolve("../espnet_mtla/attention", "docs")
    'espnet_mtla/attention'
    """
    parts: list[str] = []
    for part in PurePosixPath(folder, target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def expand(markdown: str, folder: str) -> str:
    """Insert the files and results blocks that a page asks for by name."""

    def inserted(match: re.Match[str]) -> str:
        path = resolve(match[1], folder)
        text = (ROOT / path).read_text(encoding="utf-8")
        if match[2]:
            (text,) = RESULTS.findall(text)
        text = HEADING.sub(r"##\1", text)  # below the page's own headings
        return relink(text, str(PurePosixPath(path).parent), folder)

    return INSERT.sub(inserted, markdown)


def relink(markdown: str, folder: str, other: str) -> str:
    """Rewrite links relative to ``folder`` for a text that moves to ``other``.

    >>> relink("[a](b.md)", "benchmarks", "docs")
    '[a](../benchmarks/b.md)'
    """
    up = "../" * len(PurePosixPath(other).parts)
    return LINK.sub(
        lambda match: f"{up}{resolve(match[1], folder)}{match[2] or ''}", markdown
    )


def definitions(code: str) -> dict[str, int]:
    """Return the line of each class, function and method, by dotted name.

    >>> definitions("class A:\\n    def f(self): ...\\n")
    {'A': 1, 'A.f': 2}
    """
    lines = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            lines[node.name] = first_line(node)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    lines.setdefault(f"{node.name}.{part.name}", first_line(part))
    return lines


def first_line(node: ast.ClassDef | ast.FunctionDef) -> int:
    """Return the first line of a definition, decorators included."""
    return min([node.lineno, *(line.lineno for line in node.decorator_list)])


def page_of(path: str) -> str:
    """Return the Markdown of the page that shows a file or a folder."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(x.name for x in file.iterdir() if x.name[0] not in "._")
        return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names)])
    if file.suffix in (".png", ".svg", ".json"):
        return f"# {path}\n\n{file.stat().st_size:,} bytes, in the repository.\n"
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        # MkDocs needs four spaces where GitHub needs three.
        return re.sub(r"^ {3}(?=[^ ])", "    ", BADGE.sub("", text), flags=re.MULTILINE)
    if file.suffix != ".py":
        return f"# {path}\n\n{fence(text, LANGUAGES.get(file.suffix, 'text'), 1)}"
    lines, starts = text.splitlines(keepends=True), definitions(text)
    parts = [f"# {path}", fence("".join(lines[: _next(0, starts, lines)]), "python", 1)]
    for name, start in starts.items():
        code = "".join(lines[start - 1 : _next(start, starts, lines)])
        level = "###" if "." in name else "##"
        parts.append(f"{level} {name} {{ #{name} }}\n\n{fence(code, 'python', start)}")
    return "\n\n".join(parts)


def _next(line: int, starts: dict[str, int], lines: list[str]) -> int:
    return min([x - 1 for x in starts.values() if x > line], default=len(lines))


def uri_of(path: str) -> str:
    """Return the page of a file or folder; MkDocs leaves out names with a leading dot.

    >>> uri_of(".github/workflows/ci.yml")
    'source/dot-github/workflows/ci.yml.md'
    """
    visible = re.sub(r"(^|/)[.]", r"\1dot-", path or "checkout")
    return f"source/{visible}.md"


def fence(text: str, language: str, line: int) -> str:
    """Return ``text`` as a block of code whose lines are numbered from ``line``.

    >>> fence("a = 1\\n", "python", 3)
    '````{.python linenums="3"}\\na = 1\\n````'
    """
    return f'````{{.{language} linenums="{line}"}}\n{text.rstrip()}\n````'


def targets(markdown: str, folder: str) -> set[str]:
    """Return the files and folders outside ``docs`` that a page links to."""
    plain = LINK.findall(CODE.sub("", markdown))
    paths = {resolve(target, folder) for target, _ in plain if target}
    return {path for path in paths if not path.startswith("docs/")}


def rewrite(markdown: str, folder: str, page: str) -> str:
    """Point links, outside code, to files of the repository to their pages."""
    up = "../" * len(PurePosixPath(page).parent.parts)

    def link(match: re.Match[str]) -> str:
        if not match[1]:
            return match[0]
        path = resolve(match[1], folder)
        path = path[5:] if path.startswith("docs/") else uri_of(path)
        return f"{up}{path}{match[2] or ''}"

    parts = CODE.split(markdown)  # text and code, in turn
    parts[::2] = [LINK.sub(link, text) for text in parts[::2]]
    return "".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file that is linked to, directly or by another such page."""
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    todo = {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    for file in files.documentation_pages():
        folder = str(PurePosixPath("docs", file.src_uri).parent)
        todo |= targets(expand(file.content_string, folder), folder)
    done: set[str] = set()
    while todo - done:
        path = min(todo - done)
        done.add(path)
        if not (ROOT / path).exists():
            raise PluginError(f"link to {path}: no such file in the repository")
        text, folder = page_of(path), str(PurePosixPath(path).parent)
        page = uri_of(path)
        if path.endswith(".md"):
            todo |= targets(text, folder)
            text = rewrite(text, folder, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Expand and link a page of ``docs``; pages under ``source`` are linked already."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    folder = str(PurePosixPath("docs", page.file.src_uri).parent)
    return rewrite(expand(markdown, folder), folder, page.file.src_uri)

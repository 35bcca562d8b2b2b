"""The pages of docs/ agree with the code, the recipes and the measurements."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import yaml

from test.support import markdown
from test.support.markdown import table
from test.support.repository import PACKAGE, ROOT
from test.test_house import MAY_IMPORT

DOCS = ROOT / "docs"
PUBLIC = [
    *("espnet_mtla", "espnet_mtla.attention", "espnet_mtla.decoder"),
    *("espnet_mtla.search", "espnet_mtla.speech2text"),
    *("espnet_mtla.hf", "espnet_mtla.hf.speech"),
]
API = "\n".join(path.read_text() for path in sorted(DOCS.glob("api/*.md")))
DIRECTIVES = re.findall(r"^::: (\S+)$", API, re.MULTILINE)
PAGES = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}


def load(name: str) -> ModuleType:
    """Import a module that is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "utils" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


source_pages = load("source_pages")

# ---------------------------------------------------------------- API


def test_packages_with_public_names_are_those_of_the_api_pages() -> None:
    declared = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("__init__.py")
        if "\n__all__ = " in path.read_text(encoding="utf-8")
    }
    assert declared == set(PUBLIC)


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_have_api_pages_and_docstrings(package: str) -> None:
    documented = [pkgutil.resolve_name(name) for name in DIRECTIVES]
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        where = f"{package}.{name}"
        if isinstance(value, str):  # the version
            assert where in API
            continue
        assert any(value is other for other in documented), f"{where}: no API page"
        assert has_docstring(name, value), f"{where}: no docstring"


def has_docstring(name: str, value: object) -> bool:
    """Return True if a class, function or constant has a text of its own."""
    if inspect.isclass(value):
        text = vars(value).get("__doc__") or ""
        return bool(text) and not text.startswith(f"{value.__name__}(")  # a dataclass's
    if inspect.isfunction(value):
        return bool(value.__doc__)
    (home,) = (one for one in DIRECTIVES if one.endswith(f".{name}"))
    source = inspect.getsource(importlib.import_module(home.rpartition(".")[0]))
    body = ast.parse(source).body
    for node, after in pairwise(body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in ast.dump(node):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


def test_public_methods_have_docstrings() -> None:
    for name in DIRECTIVES:
        value = pkgutil.resolve_name(name)
        if not inspect.isclass(value):
            continue
        for method in vars(value).values():
            own = getattr(method, "fget", getattr(method, "__func__", method))
            if inspect.isfunction(own) and not own.__name__.startswith("_"):
                text = inspect.getdoc(getattr(value, own.__name__))
                assert text, f"{name}.{own.__name__}: no docstring"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_docstrings_name_arguments_that_exist(path: Path) -> None:
    """A parameter that was renamed is renamed in the docstring, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node) or ""
        arguments = node.args
        known = {one.arg for one in (*arguments.posonlyargs, *arguments.args)}
        known |= {one.arg for one in arguments.kwonlyargs}
        known |= {one.arg for one in (arguments.vararg, arguments.kwarg) if one}
        section = re.search(r"^Args:\n((?:[ ]{4,}.*\n?|\n)*)", text, re.MULTILINE)
        names = re.findall(r"^    (\w[^:\n]*):", section[1] if section else "", re.M)
        for name in ", ".join(names).split(", ") if names else []:
            assert name in known, f"{path}: {node.name}: Args: {name}"


# ---------------------------------------------------------------- results


def test_every_results_table_is_on_the_page_of_results() -> None:
    inserted = set(
        re.findall(r"^<!-- insert: \.\./(\S+) -->$", PAGES["results.md"], re.M)
    )
    recipes = {
        f"{path.relative_to(ROOT)}#results"
        for path in ROOT.glob("egs2/*/*/README.md")
        if "<!-- results:begin -->" in path.read_text(encoding="utf-8")
    }
    measured = {str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/*.md")}
    assert inserted == recipes | measured


def test_the_readmes_table_is_the_recipes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    recipe = (ROOT / "egs2/asterisk/asr1/README.md").read_text(encoding="utf-8")
    rows = table(readme, "results")
    first = recipe[recipe.index("decoded with beam10\n") :]
    assert len(rows) == 2
    for row in rows:
        assert row in table(f"<!-- t:begin -->{first}<!-- t:end -->", "t")[:2]
    made = re.search(r"Made on (\S+) .*torch (\S+), espnet (\S+),", recipe)
    assert made
    assert f"{made[1]} (torch {made[2]}, espnet {made[3]})" in readme


def measured(name: str, **conditions: object) -> dict[str, float]:
    """Return the one row of a benchmark that meets the conditions."""
    rows = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())["rows"]
    (row,) = (x for x in rows if conditions.items() <= x.items())
    return row


def ratio(name: str, column: str, of: dict, to: dict) -> str:
    return f"{measured(name, **of)[column] / measured(name, **to)[column]:.2f}x"


def speed_rows() -> list[tuple[str, str]]:
    """Return time and bytes of each row of the table of speed, from measurements."""
    train, ours = "cpu_train", {"who": "ours", "attention": "mtla_s2"}
    rows = []
    for tokens, other in [
        *((tokens, "sdpa mha") for tokens in (2048, 4096, 8192)),
        (2048, "mtla_s2, reference"),
    ]:
        pair = {"T": tokens, "attention": "mtla_s2"}, {"T": tokens, "attention": other}
        memory = ratio(train, "kept MB", *pair)
        rows.append((ratio(train, "ms", *pair), f"{memory} kept"))
    for other in (
        {"who": "reference", "attention": "mtla_s2"},
        {"who": "reference", "attention": "mha"},
        {"who": "ours", "attention": "mha"},
    ):
        for name in ("cpu_decode", "cpu_decode_1000"):
            memory = ratio(name, "cache MB", ours, other)
            rows.append((ratio(name, "all steps s", ours, other), f"{memory} cache"))
    return rows[:-1]  # our own MHA is compared at 250 frames alone


def test_the_table_of_speed_is_what_was_measured() -> None:
    shown = [(row[2], row[3]) for row in table(PAGES["results.md"], "speed")]
    assert shown == speed_rows()


# ---------------------------------------------------------------- the code


def test_the_tables_of_architecture_are_the_codes() -> None:
    tree = table(PAGES["architecture.md"], "tree")
    assert [row[0].strip("`") for row in tree] == list(MAY_IMPORT)
    rows = []
    for part, others in MAY_IMPORT.items():
        listed = ", ".join(f"`{other}`" for other in MAY_IMPORT if other in others)
        rows.append(f"| `{part}` | {listed or '-'} |")
    for row in rows:
        assert f"\n{row}\n" in PAGES["architecture.md"], f"the row has to be: {row}"
    assert len(table(PAGES["architecture.md"], "imports")) == len(rows)


def test_the_stages_are_the_pipelines() -> None:
    text = (ROOT / "egs2/TEMPLATE/pipeline.sh").read_text(encoding="utf-8")
    (stages,) = re.findall(r"^STAGES=\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    names = re.findall(r'^ +"(\w+):', stages, re.MULTILINE)
    expected = [(str(number), name) for number, name in enumerate(names, 1)]
    for page in ("recipes.md", "from-espnet.md"):
        shown = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGES[page], re.MULTILINE)
        assert shown == expected, page


def test_espnets_options_are_those_that_the_pipeline_accepts() -> None:
    script = (
        f". {ROOT}/egs2/TEMPLATE/espnet_options.sh\n"
        'for n in "${!ESPNET_ALIASES[@]}"; do echo "$n ${ESPNET_ALIASES[$n]}"; done'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    accepted = {tuple(line.split()) for line in done.stdout.splitlines()}
    shown = {
        (name, row[1].strip("`").removeprefix("--"))
        for row in table(PAGES["from-espnet.md"], "espnet-options")
        for name in re.findall(r"--(\w+)", row[0])
    }
    assert accepted and shown == accepted


def test_espnets_decoding_options_are_those_that_are_accepted() -> None:
    from espnet_mtla.search.options import ALIASES

    rows = table(PAGES["from-espnet.md"], "decode-options")
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == ALIASES


def test_every_recipe_is_on_the_page_of_recipes() -> None:
    recipes = {path.parent.name for path in ROOT.glob("egs2/*/*/run.sh")}
    assert recipes
    for path in ROOT.glob("egs2/*/*/run.sh"):
        name = path.parent.relative_to(ROOT / "egs2")
        assert f"[{name}](../egs2/{name}/README.md)" in PAGES["recipes.md"]


# ---------------------------------------------------------------- the build


def test_renamed_methods_have_the_names_of_the_changelog() -> None:
    """Rows are class, old name, new name; the old name must be gone."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = text.partition("### Renamed in Python")[2].partition("\n###")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|$", section, re.MULTILINE)
    assert len(rows) > 10
    homes = [importlib.import_module(f"espnet_mtla.{n}") for n in ("attention", "hf")]
    for name, old, new in rows:
        value = next(getattr(home, name) for home in homes if hasattr(home, name))
        assert hasattr(value, new), f"{name}.{new}"
        assert not hasattr(value, old), f"{name}.{old}"


def test_the_navigation_holds_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    shown = set(re.findall(r"[\w/-]+\.md", str(settings["nav"])))
    assert shown == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert settings["strict"] is True


def test_the_lock_holds_what_the_group_names() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (group,) = re.findall(r"^docs = \[(.*)\]$", project, re.MULTILINE)
    lock = (ROOT / "utils/lock/docs.txt").read_text(encoding="utf-8")
    for name in re.findall(r'"([a-z-]+)', group):
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name
    pinned = re.findall(r"^[a-z0-9-]+==", lock, re.MULTILINE)
    assert lock.count("--hash=sha256:") >= len(pinned) > 20


def test_ci_builds_the_documentation() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["docs"]["steps"]
    assert "utils/docs.sh" in [step.get("run") for step in steps]


def test_helpers_of_the_documents_do_as_they_say() -> None:
    for module in (source_pages, markdown):
        failed, tried = doctest.testmod(module)
        assert tried and not failed


def test_links_to_files_become_links_to_their_pages() -> None:
    text = "[a](../conf/x.yaml) [b](api/y.md#z) [c](#d) [e](https://f)"
    assert source_pages.rewrite(text, "docs", "start.md") == (
        "[a](source/conf/x.yaml.md) [b](api/y.md#z) [c](#d) [e](https://f)"
    )
    assert source_pages.rewrite("[a](../../README.md)", "docs/api", "api/y.md") == (
        "[a](../source/README.md.md)"
    )


def test_inserted_results_are_the_recipes_table() -> None:
    line = "<!-- insert: ../egs2/asterisk/asr1/README.md#results -->"
    text = source_pages.expand(line, "docs")
    assert "| mtla_s2   |" in text and "results:begin" not in text
    assert "\n##### test_combinations" in text


# ---------------------------------------------------------------- the picture


def test_texts_of_the_picture_fit_and_do_not_touch() -> None:
    """By the font of matplotlib, which is wider than those that browsers choose."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    picture = ElementTree.parse(DOCS / "mtla.svg").getroot()
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    boxes = []
    for node in picture.iter("{http://www.w3.org/2000/svg}text"):
        text, size = "".join(node.itertext()), float(node.attrib["font-size"])
        font = FontProperties(family="DejaVu Sans", weight=node.attrib["font-weight"])
        long = TextPath((0, 0), text, size=size, prop=font).get_extents().width
        share = {"start": 0.0, "middle": 0.5, "end": 1.0}[node.attrib["text-anchor"]]
        left, base = float(node.attrib["x"]) - share * long, float(node.attrib["y"])
        box = (text, left, left + long, base - 0.8 * size, base + 0.25 * size)
        assert box[1] >= 0 and box[2] <= width and box[4] <= height, text
        for other in boxes:
            apart = box[1] >= other[2] or other[1] >= box[2]
            apart = apart or box[3] >= other[4] or other[3] >= box[4]
            assert apart, f"{text!r} touches {other[0]!r}"
        boxes.append(box)
    assert len(boxes) > 30

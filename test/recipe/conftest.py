"""Recipes to run: one whose commands are stubs, for the pipeline's own mechanics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from test.support.recipe_runner import ROOT, Recipe

COMMANDS = (
    "validate_data",
    "perturb_speed",
    "format_audio",
    "filter_data",
    "dump_features",
    "tokenise",
    "train",
    "average",
    "inference",
    "score",
    "results",
    "pack",
    "upload",
)
RUN = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../../TEMPLATE/pipeline.sh --nbest 2 -- "$@"
"""
DATA = """#!/usr/bin/env bash
set -euo pipefail
[ "${1:-}" != --corpus ] || [ -d "$2" ] || { echo "error: $2: no corpus" >&2; exit 1; }
echo data >>"$STUB_CALLS"
for set in train valid test; do
    mkdir -p "data/$set"
    echo "text of $set" >"data/$set/text"
    echo "sound of $set" >"data/$set/wav.scp"
    if [ "${STUB_HANG:-}" = data ] && [ $set = valid ]; then
        echo $$ >"$STUB_CALLS.hang"
        while [ -e "$STUB_CALLS.hang" ]; do sleep 0.02; done
    fi
done
"""


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make_tree(tree: Path) -> Recipe:
    """A recipe whose commands are stubs, in a tree of its own."""
    shutil.copytree(ROOT / "egs2" / "TEMPLATE", tree / "egs2" / "TEMPLATE")
    package = tree / "espnet_mtla"
    (package / "bin").mkdir(parents=True)
    for init in (package, package / "bin"):
        (init / "__init__.py").touch()
    stub = (ROOT / "test" / "support" / "command_stub.py").read_text()
    for command in COMMANDS:
        (package / "bin" / f"{command}.py").write_text(stub)
    folder = tree / "egs2" / "toy" / "asr1"
    write_script(folder / "run.sh", RUN)
    write_script(folder / "local" / "data.sh", DATA)
    for config in ("train", "encoder", "decode"):
        path = folder / "conf" / f"{config}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("lr: 1\nmax_epoch: 3\n")
    for name in ("attention/mha", "attention/mtla_s2", "frontend/fbank80"):
        path = tree / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"name: {name}\n")
    return Recipe(folder, tree / "calls")


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    return lambda name, top=tmp_path: make_tree(top / name)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return make_tree(tmp_path / "tree")


@pytest.fixture(scope="session")
def finished_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("finished") / "tree"
    recipe = make_tree(tree)
    recipe.run("--attention", "mha")
    recipe.calls()
    return tree


@pytest.fixture
def finished(finished_tree: Path, tmp_path: Path) -> Recipe:
    """A copy of a recipe that has run to its end with the attention type mha."""
    tree = tmp_path / "tree"
    shutil.copytree(finished_tree, tree)
    return Recipe(tree / "egs2" / "toy" / "asr1", tree / "calls")


@pytest.fixture
def make_mini(tmp_path: Path) -> Callable[[str], Recipe]:
    """Copies of the tree with the mini recipe in it."""

    def make(name: str) -> Recipe:
        tree = tmp_path / name
        leave = shutil.ignore_patterns("__pycache__", "data", "dump", "exp", "asterisk")
        shutil.copytree(ROOT / "egs2", tree / "egs2", ignore=leave)
        for folder in ("conf", "utils"):
            shutil.copytree(ROOT / folder, tree / folder, ignore=leave)
        shutil.copytree(
            ROOT / "espnet_mtla",
            tree / "espnet_mtla",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        return Recipe(tree / "egs2" / "mini" / "asr1", tree / "calls")

    return make

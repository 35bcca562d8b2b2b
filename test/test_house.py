"""The house rules as tests: order of imports, start-up time, sizes."""

from __future__ import annotations

import ast
import re
import resource
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from test.support.repository import (
    COMMANDS,
    PACKAGE,
    PYTHON_FILES,
    ROOT,
    SHELL_FILES,
    help_of,
    python,
    relative,
)

MAY_IMPORT = {
    "settings": set(),
    "attention": {"settings"},
    "decoder": {"attention", "settings"},
    "search": {"decoder", "attention", "settings"},
    "frontend": {"settings"},
    "data": {"settings"},
    "model": {"decoder", "attention", "frontend", "data", "settings"},
    "task": {"model", "decoder", "frontend", "data", "settings"},
    "recognise": {
        *("model", "decoder", "attention", "search", "data", "frontend", "settings"),
    },
    "speech2text": {"data", "model", "recognise", "search", "share", "settings"},
    "score": {"data"},
    "share": {"data", "model", "score", "search", "settings", "task"},
    "serve": {"recognise", "search", "settings", "speech2text"},
    "hf": {
        *("attention", "decoder", "data", "model", "recognise", "search", "settings"),
        *("share", "speech2text"),
    },
    "benchmark": {
        *("attention", "decoder", "search", "data", "model", "recognise", "score"),
        "settings",
    },
    "diagnose": {
        *("attention", "decoder", "search", "score"),
        *("recognise", "speech2text", "hf"),
    },
    "plot": {
        *("attention", "decoder", "model", "data", "score"),
        *("recognise", "speech2text"),
    },
    "bin": {
        *("benchmark", "data", "decoder", "diagnose", "hf", "model", "plot"),
        *("recognise", "score", "search", "serve", "settings", "share", "speech2text"),
        "task",
    },
}
"""Which part may use which, besides itself and the modules at the package's top."""
OF_TORCH = {"filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy"}
OF_TORCH |= {"triton", "typing_extensions"}
"""What torch brings along and may load at any time."""


def best_of_three(measure) -> float:
    """Return the smallest of up to three measurements, in seconds."""
    seconds = []
    while len(seconds) < 3 and min(seconds, default=9.0) >= 1.0:
        seconds.append(measure())
    return min(seconds)


# ---------------------------------------------------------------- imports


def imports(path: Path) -> Iterator[str]:
    """Yield full names of the modules that a file imports at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import modules by their full names"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def test_every_part_has_its_place_in_the_order_of_imports() -> None:
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert parts == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_point_one_way(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "espnet_mtla" and rest and rest[0] in MAY_IMPORT:
                allowed = MAY_IMPORT[part] | {part}
                assert rest[0] in allowed, f"{relative(path)} imports {name}"


def modules() -> dict[str, Path]:
    """The package's modules by their full names."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_modules(path: Path, name: str, known: set[str]) -> set[str]:
    """Modules among ``known`` that the file of module ``name`` imports anywhere.

    Importing ``a.b`` runs ``a/__init__.py``: packages count that do not hold ``name``.
    """
    wanted = set()
    for target in imports(path):
        while target and target not in known:
            target = target.rpartition(".")[0]
        wanted.add(target)
        while "." in target:
            target = target.rpartition(".")[0]
            if not f"{name}.".startswith(f"{target}."):
                wanted.add(target)
    return wanted & known - {name}


def test_no_import_circles() -> None:
    """Imports inside functions count, too; those for type checkers alone do not."""
    paths = modules()
    graph = {name: imported_modules(p, name, set(paths)) for name, p in paths.items()}
    assert sum(map(len, graph.values())) > 500  # the imports are seen
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("part", ["attention", "decoder", "search"])
def test_the_core_needs_torch_alone(part: str) -> None:
    code = """
import importlib, pkgutil, sys, torch
before = set(sys.modules)
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
tops = {name.split(".")[0] for name in set(sys.modules) - before}
print(*(tops - {name.split(".")[0] for name in before} - set(sys.stdlib_module_names)))
"""
    loaded = set(python(code, f"espnet_mtla.{part}").split())
    # Part of the standard library, under a name that tells the platform.
    loaded = {name for name in loaded if not name.startswith("_sysconfigdata")}
    assert loaded <= {"espnet_mtla"} | OF_TORCH


def test_fast_paths_do_not_use_the_dense_reference() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "espnet_mtla.attention.naive" not in str(list(imports(path))), path


def test_asr_tasks_of_espnet_are_never_imported() -> None:
    for path in PYTHON_FILES:
        for name in imports(path):
            assert not name.startswith("espnet2.tasks.asr"), relative(path)


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, espnet_mtla; print(*sys.modules)"
    assert not {"torch", "numpy", "yaml"} & set(python(code).split())


def test_importing_the_core_is_quick() -> None:
    code = """
import time, torch
start = time.process_time()
import espnet_mtla
import espnet_mtla.attention, espnet_mtla.decoder, espnet_mtla.search
print(time.process_time() - start)
"""
    assert best_of_three(lambda: float(python(code))) < 1.0


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("command", COMMANDS)
def test_help_takes_under_a_second(command: str) -> None:
    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        help_of.__wrapped__(sys.executable, "-m", f"espnet_mtla.bin.{command}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert best_of_three(measure) < 1.0


def messages(path: Path) -> Iterator[str]:
    """The constant text of each ``UserError`` and each log line of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "UserError" or re.match(r"logg(er|ing)\.", name):
                strings = (part for arg in node.args for part in ast.walk(arg))
                yield "".join(
                    str(part.value)
                    for part in strings
                    if isinstance(part, ast.Constant)
                )


def test_messages_name_commands_as_users_type_them() -> None:
    names = [name for name in COMMANDS if "_" in name]
    bare = rf"\b({'|'.join(names)})\b|\b({'|'.join(COMMANDS)}) --"
    for path in PACKAGE.rglob("*.py"):
        for message in messages(path):
            text = re.sub(rf"espnet-mtla ({'|'.join(COMMANDS)})", "", message)
            named = re.search(bare, text)
            assert not named, f"{relative(path)}: espnet-mtla is missing in {message!r}"


# ---------------------------------------------------------------- sizes


def test_files_hold_one_idea() -> None:
    for path in [*PYTHON_FILES, *SHELL_FILES]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 350, f"{relative(path)} has {lines} lines"


def test_functions_hold_one_idea() -> None:
    for path in PYTHON_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 70, f"{relative(path)}: {node.name} has {lines} lines"


def test_a_recipes_run_script_is_choices_and_one_call() -> None:
    for path in ROOT.glob("egs2/*/*/run.sh"):
        text = path.read_text()
        assert len(text.splitlines()) <= 40, relative(path)
        assert text.rstrip().endswith('"$@"'), f"{relative(path)}: options must pass"


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


# ---------------------------------------------------------------- YAML

ATTENTIONS = sorted((ROOT / "conf" / "attention").glob("*.yaml"))
TRAINING = sorted(
    path
    for pattern in ("train*.yaml", "encoder*.yaml", "lm*.yaml")
    for path in ROOT.glob(f"egs2/*/*/conf/**/{pattern}")
)
DECODING = sorted(
    [*ROOT.glob("conf/decode/*.yaml"), *ROOT.glob("egs2/*/*/conf/**/decode*.yaml")]
)


def build(config: Path, attention: Path | None, folder: Path) -> int:
    """Build the model that a training YAML describes; returns its parameters."""
    import numpy as np

    from espnet_mtla.task import launch
    from espnet_mtla.task.tasks import task_class

    # egs2/CORPUS/TASK1/conf: the recipe's folder says what is learnt.
    task = config.relative_to(ROOT / "egs2").parts[1].rstrip("0123456789")
    if config.stem.startswith("lm"):
        task = "lm"
    tokens = folder / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\na\nb\n<sos/eos>\n")
    options = ["--token_list", str(tokens), "--output_dir", str(folder)]
    args = launch.parse(launch.read_config(config, attention), options, task)
    width = args.frontend_conf.get("n_mels", 80)
    if args.frontend == "transformers":  # a tiny model in place of the one on the hub
        from test.support.tiny_encoders import make_whisper

        model = make_whisper(folder / "whisper")
        args.frontend_conf = {**args.frontend_conf, "model": str(model)}
        width = 16
    if args.decoder == "pretrained":
        from test.support.tiny_llm import use_tiny_language_model

        use_tiny_language_model(args, folder)
    if args.normalize == "global_mvn":
        stats = folder / "feats_stats.npz"
        np.savez(stats, count=2, sum=np.zeros(width), sum_square=np.ones(width))
        args.normalize_conf = {**args.normalize_conf, "stats_file": str(stats)}
    model = task_class(task).build_model(args)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("config", TRAINING, ids=relative)
def test_every_training_config_builds_its_model(config: Path, tmp_path: Path) -> None:
    assert build(config, None, tmp_path) > 0


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda path: path.stem)
def test_every_attention_config_builds_a_model(attention: Path, tmp_path: Path) -> None:
    config = ROOT / "egs2" / "mini" / "asr1" / "conf" / "train.yaml"
    assert build(config, attention, tmp_path) > 0


@pytest.mark.parametrize("config", DECODING, ids=relative)
def test_every_decode_config_has_known_keys(config: Path) -> None:
    from espnet_mtla.settings.yaml_files import load_config

    keys = load_config(config)
    text = help_of(sys.executable, "-m", "espnet_mtla.bin.inference")
    for key in keys:
        assert f"--{key} " in text, f"{relative(config)}: {key}"

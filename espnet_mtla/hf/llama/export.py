"""Export a model to a folder that loads without this package: with its source code.

With ``trust_remote_code=True`` Transformers runs code of the model's folder. It copies
the files that relative imports name, and supports no subfolders. So each module that
the model needs is written as one file, with relative imports in place of ours.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from espnet_mtla.hf.llama.modeling import LlamaMTLAForCausalLM, LlamaMTLAPreTrainedModel

PACKAGE = "espnet_mtla"
STAND_INS = {
    "espnet_mtla.attention.decoding.backend": "espnet_mtla.hf.llama.torch_only_backend"
}
AUTO_MAP = {
    "AutoConfig": "espnet_mtla.hf.llama.configuration.LlamaMTLAConfig",
    "AutoModel": "espnet_mtla.hf.llama.modeling.LlamaMTLAModel",
    "AutoModelForCausalLM": "espnet_mtla.hf.llama.modeling.LlamaMTLAForCausalLM",
}


def export(model: LlamaMTLAPreTrainedModel, folder: str | Path) -> list[Path]:
    """Save a model with its source code; return the paths of the source files."""
    folder = Path(folder)
    model.save_pretrained(folder)
    sources = needed_sources(type(model).__module__)
    entries = {target.rpartition(".")[0] for target in AUTO_MAP.values()}
    written = []
    for module, source in sources.items():
        path = folder / f"{_flat(module)}.py"
        if module in entries:
            source += _name_all(needed_sources(module))
        path.write_text(source, encoding="utf-8")
        written.append(path)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    classes = AUTO_MAP if isinstance(model, LlamaMTLAForCausalLM) else _body(AUTO_MAP)
    settings["auto_map"] = {
        name: f"{_flat(target.rpartition('.')[0])}.{target.rpartition('.')[2]}"
        for name, target in classes.items()
    }
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return written


def needed_sources(module: str) -> dict[str, str]:
    """Return the source of a module and of all it imports from here, by module."""
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(
                f"{name}: its source file is needed for the export"
            )
        text = Path(spec.origin).read_text(encoding="utf-8")
        sources[name], more = _rewrite(text)
        waiting += more
    return sources


def _rewrite(text: str) -> tuple[str, list[str]]:
    """Return a source with relative imports, and the modules that it imports."""
    lines, modules = text.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.split(".")[0] != PACKAGE:
            continue
        module = STAND_INS.get(node.module, node.module)
        modules.append(module)
        first = node.lineno - 1
        before, after = f"from {node.module} import", f"from .{_flat(module)} import"
        lines[first] = lines[first].replace(before, after)
    return "".join(lines), modules


def _name_all(modules: Iterable[str]) -> str:
    """Return unused imports of all modules: Transformers 4 follows no others."""
    lines = [f"    from .{_flat(module)} import __doc__ as _" for module in modules]
    return "\n\nif False:\n" + "\n".join(lines) + "\n"


def _flat(module: str) -> str:
    """Return the file name of a module, without its ending."""
    return module.replace(".", "_")


def _body(auto_map: dict[str, str]) -> dict[str, str]:
    """Return the classes of a model without output layer."""
    return {name: path for name, path in auto_map.items() if "CausalLM" not in path}

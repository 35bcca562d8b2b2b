"""A folder that loads without this package: weights, settings and the sources.

Transformers runs a folder's own code when it is loaded with ``trust_remote_code=True``.
It copies the files that relative imports name, from one flat folder; so each module
that the model needs becomes one file there, its imports of this package rewritten.
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
    """Save a model with its sources; returns the files of the latter."""
    folder = Path(folder)
    model.save_pretrained(folder)
    sources = needed_sources(type(model).__module__)
    entries = {place.rpartition(".")[0] for place in AUTO_MAP.values()}
    written = []
    for module, source in sources.items():
        path = folder / f"{_flat(module)}.py"
        if module in entries:
            source += _name_all(needed_sources(module))
        path.write_text(source, encoding="utf-8")
        written.append(path)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    wanted = AUTO_MAP if isinstance(model, LlamaMTLAForCausalLM) else _body(AUTO_MAP)
    settings["auto_map"] = {
        name: f"{_flat(place.rpartition('.')[0])}.{place.rpartition('.')[2]}"
        for name, place in wanted.items()
    }
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return written


def needed_sources(module: str) -> dict[str, str]:
    """Sources, by module, of all that one needs of this package; imports rewritten."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{name}: its source is needed to go along")
        text = Path(spec.origin).read_text(encoding="utf-8")
        found[name], more = _rewrite(text)
        waiting += more
    return found


def _rewrite(text: str) -> tuple[str, list[str]]:
    """A source with relative imports for ours, and the modules that these name."""
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
    """Lines that name all modules: Transformers 4 copies what an entry itself names."""
    lines = [f"    from .{_flat(module)} import __doc__ as _" for module in modules]
    return "\n\nif False:\n" + "\n".join(lines) + "\n"


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _body(auto_map: dict[str, str]) -> dict[str, str]:
    return {name: place for name, place in auto_map.items() if "CausalLM" not in place}

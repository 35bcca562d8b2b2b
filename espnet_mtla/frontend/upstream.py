"""Load one of S3PRL's upstreams, without importing the others or printing anything.

``s3prl.hub`` imports every upstream, which takes most of a minute and fails if
torchaudio lacks a function that one of them uses. An upstream is a function in the
``hubconf.py`` of its own folder: this module imports that file alone.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import logging
import pickle
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.quiet import quiet
from espnet_mtla.text_files import read_json

if TYPE_CHECKING:
    from s3prl.upstream.interfaces import UpstreamBase

# Exceptions of the loaders of some forty models for a file that does not fit.
_UNFIT = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
# Endings of the names of upstreams that need a file or a folder.
_NEEDS_PATH = ("_local", "_custom", "_url")


@functools.cache
def upstream_names() -> dict[str, str]:
    """Return the names of the installed S3PRL's upstreams, and the folder of each."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("s3prl: not installed; pip install 'espnet-mtla[ssl]'")
    root = Path(spec.submodule_search_locations[0]) / "upstream"
    names = {}
    # If two folders define a name, the later one counts, as in s3prl.hub.
    for file in sorted(root.glob("*/hubconf.py")):
        for name in re.findall(r"^def ([A-Za-z]\w*)\(", file.read_text("utf-8"), re.M):
            names[name] = file.parent.name
    return names


def load_upstream(name: str, path: str | None) -> UpstreamBase:
    """Load the upstream ``name`` with the checkpoint at ``path``.

    It maps a list of samples (n,) at 16 kHz to a dictionary whose ``hidden_states`` are
    (1, frames, width) each.

    Raises:
        UserError: the upstream is unknown, or the checkpoint is another model's.
    """
    names = upstream_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"upstream: S3PRL has no {name!r}{hint}")
    _check_path(name, path)
    _make_torchaudio_whole()
    # WavLM's code causes it at every call; users cannot change that.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    where = f"upstream {name}: path: {path}" if path else f"upstream {name}"
    settings = {"ckpt": path} if path else {}
    with _quiet():
        try:
            module = importlib.import_module(f"s3prl.upstream.{names[name]}.hubconf")
            return getattr(module, name)(**settings)
        except _UNFIT as error:
            what = "is it a checkpoint of another model?"
            if path is None or not Path(path).exists():
                what = "it is not on this machine, and could not be fetched"
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"{where}: cannot be loaded; {what} ({reason})") from None


def _check_path(name: str, path: str | None) -> None:
    if path is None:
        if name.endswith(_NEEDS_PATH):
            raise UserError(f"path: upstream {name} needs a checkpoint")
        return
    if name.endswith("_local") and not Path(path).exists():
        raise UserError(f"path: {path}: no such file")
    kind = re.fullmatch(r"hf_(.+)_custom", name)
    if kind and Path(path).exists():
        _check_transformers_folder(Path(path), kind[1])


def _check_transformers_folder(folder: Path, kind: str) -> None:
    """Refuse another model's folder: Transformers would initialise it at random."""
    for file in ("config.json", "preprocessor_config.json"):
        if not (folder / file).is_file():
            raise UserError(f"path: {folder}: no {file}; a Transformers folder needed")
    found = read_json(folder / "config.json").get("model_type")
    if found != kind:
        raise UserError(f"path: {folder}: a model of type {found!r}, {kind!r} needed")


def checkpoint_digest(path: str | None) -> str:
    """Return a hash of a checkpoint's files; ``path`` or "" if it has none."""
    import hashlib

    if path is None or not Path(path).exists():
        return path or ""
    files = [Path(path)] if Path(path).is_file() else sorted(Path(path).iterdir())
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    whole.update(block)
    return whole.hexdigest()


def _make_torchaudio_whole() -> None:
    """Define what torchaudio 2.9 dropped and S3PRL needs for its import.

    The choice of a backend had no effect; S3PRL uses the effects for data sets alone.
    """
    import torchaudio

    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda _: None
    name = "torchaudio.sox_effects"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        vars(module).update(
            apply_effects_tensor=_no_effects, apply_effects_file=_no_effects
        )
        sys.modules[name] = torchaudio.sox_effects = module


def _no_effects(*_: object, **__: object) -> None:
    raise UserError("torchaudio has no sox effects any more; this upstream needs them")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output of models while they load."""
    with quiet(
        stderr=True
    ):  # first: it locks the state of the process that is changed below
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.root.setLevel(level)

"""Experiment folders that can be moved: they hold every file that decoding needs."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.errors import UserError, no_file
from espnet_mtla.settings.checks import require
from espnet_mtla.settings.names import (
    CHECKPOINT_KEYS,
    MODEL,
    STATS,
    SYMBOLS,
    TOKENISER,
    TOKENIZER,
    TOKENS,
    UPSTREAM,
    WEIGHTS,
)
from espnet_mtla.settings.yaml_files import load_yaml

PARTS = ("frontend", "specaug", "normalize", "encoder")
NEEDED = (
    *("token_list", "bpemodel", "non_linguistic_symbols", "input_size", *PARTS),
    *(f"{part}_conf" for part in (*PARTS, "ctc", "projector", "decoder", "model")),
    "token_type",
)
"""Keys of ``config.yaml`` that building a model needs."""


_NAMES = (
    *("bpemodel", "non_linguistic_symbols", "token_type", "init", "task", "decoder"),
    *("source_text", "target_text", *PARTS),
)


def bundle_files(args: Namespace, folder: str | Path) -> None:
    """Copy the files that the model is built from into ``folder``, and set ``args``."""
    folder = Path(folder)
    if args.normalize == "global_mvn":
        source = args.normalize_conf.get("stats_file")
        if source is None:
            raise UserError("normalize_conf.stats_file: needed by global_mvn")
        copy = _copy(source, folder / STATS)
        args.normalize_conf = {**args.normalize_conf, "stats_file": copy}
    for option, name in tokeniser_files(args.token_type).items():
        if getattr(args, option) is not None:
            setattr(args, option, _copy(getattr(args, option), folder / name))
    args.frontend_conf = bundle_upstream(args.frontend, args.frontend_conf, folder)


def read_settings(file: Path) -> Namespace:
    """Read the ``config.yaml`` of a trained model.

    Raises:
        UserError: it lacks a key that building needs, or a value is of another type.
    """
    settings = load_yaml(file)
    for name in NEEDED:
        if name not in settings:
            raise UserError(
                f"{file.parent}: the configuration has no {name!r}; training and pack "
                "write a complete one"
            )
    for name, value in settings.items():
        place = f"{file}: {name}"
        if not isinstance(name, str):
            raise UserError(f"{place}: a name is needed as key")
        if name.endswith("_conf") and name in NEEDED:
            names = isinstance(value, dict) and all(isinstance(k, str) for k in value)
            require(names, place, value, "keys and values are")
        elif name in _NAMES:
            fine = value is None or isinstance(value, str)
            require(fine, place, value, "a name, or null, is")
    size = settings["input_size"]
    positive = type(size) is int and 0 < size < 2**20
    require(size is None or positive, f"{file}: input_size", size, "a width is")
    return Namespace(**settings)


def resolve_files(args: Namespace, folder: Path) -> None:
    """Set the paths in ``args`` to the files in ``folder``, as far as they exist."""
    if args.normalize == "global_mvn":
        stats = _resolve(args.normalize_conf.get("stats_file"), folder / STATS)
        args.normalize_conf = {**args.normalize_conf, "stats_file": stats}
    if isinstance(args.token_list, str):
        args.token_list = _resolve(args.token_list, folder / TOKENS)
    for option, name in tokeniser_files(args.token_type).items():
        if getattr(args, option) is not None:
            setattr(args, option, _resolve(getattr(args, option), folder / name))
    key = CHECKPOINT_KEYS.get(args.frontend)
    if key is not None:
        for copy in folder.glob(f"{UPSTREAM}*"):
            args.frontend_conf = {**args.frontend_conf, key: str(copy)}


def tokeniser_files(token_type: str) -> dict[str, str]:
    """Return the tokeniser's options, and the name in a folder of the file of each."""
    tokeniser = TOKENIZER if token_type == "hf" else TOKENISER
    return {"bpemodel": tokeniser, "non_linguistic_symbols": SYMBOLS}


def copy_tokenizer(source: str | Path, target: Path) -> None:
    """Save a Transformers tokenizer, from a folder or the hub, without its model."""
    from espnet_mtla.data.hf_tokens import load_tokenizer

    if Path(source).resolve() != target.resolve():
        with atomic_folder(target) as aside:
            load_tokenizer(source).save_pretrained(aside)


def _resolve(path: str | None, copy: Path) -> str | None:
    """Return ``copy`` if it exists, or if ``path`` is its bare name; else ``path``."""
    return str(copy) if copy.exists() or path == copy.name else path


def locate_weights(folder: Path) -> Path:
    """Return the file of parameters in a folder.

    Raises:
        UserError: there is no such folder or file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for file in (folder / WEIGHTS, folder / MODEL):
        if file.is_file():
            return file
    raise UserError(
        f"{file}: {no_file(file)}; espnet-mtla average makes it from the checkpoints "
        "of training"
    )


def bundle_upstream(
    frontend: str | None, settings: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Put a front-end's checkpoint into ``folder``.

    A model on the hub is downloaded; S3PRL downloads its own, which are not bundled.

    Returns:
        The settings with the new path; unchanged if there is no checkpoint.
    """
    key = CHECKPOINT_KEYS.get(frontend or "")
    path = settings.get(key) if key is not None else None
    if key is None or path is None:
        return dict(settings)
    if frontend == "transformers":
        from espnet_mtla.frontend.checkpoint import checkpoint_files, find_folder

        source = find_folder(path)
        return {**settings, key: str(link_folder(checkpoint_files(source), folder))}
    if not Path(path).exists():
        return dict(settings)
    return {**settings, key: str(link_upstream(Path(path), folder))}


def portable_upstream(
    frontend: str | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings with the name that :func:`export_upstream` writes."""
    key = CHECKPOINT_KEYS.get(frontend or "")
    path = settings.get(key) if key is not None else None
    if key is None or path is None:
        return dict(settings)
    if frontend == "transformers":
        return {**settings, key: UPSTREAM}
    file = Path(path)
    ending = "" if file.is_dir() else file.suffix
    return {**settings, key: f"{UPSTREAM}{ending}"} if file.exists() else dict(settings)


def export_upstream(
    frontend: str | None, settings: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Write a front-end's checkpoint into a folder that is to be passed on.

    Of a model of Transformers only the encoder is written, as safetensors. A trained
    encoder's weights are not: they are among those of the whole model.

    Returns:
        The settings with a name relative to ``folder``; unchanged without a checkpoint.
    """
    names = portable_upstream(frontend, settings)
    if names != dict(settings) and frontend == "transformers":
        from espnet_mtla.frontend.encoder_folder import export_encoder

        frozen = not settings.get("finetune")
        export_encoder(settings["model"], folder / UPSTREAM, weights=frozen)
    elif names != dict(settings):
        link_upstream(Path(settings["path"]), folder)
    return names


def link_upstream(path: Path, folder: Path) -> Path:
    """Put an upstream's checkpoint into ``folder``: a hard link if possible, or a copy.

    Returns:
        Its new path, ``upstream`` with the ending of the file.
    """
    if path.is_dir():
        return link_folder([f for f in path.iterdir() if f.is_file()], folder)
    target = folder / f"{UPSTREAM}{path.suffix}"
    _link(path, target)
    return target


def link_folder(files: Iterable[Path], folder: Path) -> Path:
    """Put files into the folder ``upstream`` of ``folder``, and return its path."""
    target = folder / UPSTREAM
    for file in files:
        _link(file, target / file.name)
    return target


def _link(old: Path, new: Path) -> None:
    """Make ``new`` a hard link of ``old`` if possible, or else a copy."""
    if old.resolve() == new.resolve():
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)
    try:
        os.link(old.resolve(), new)
    except OSError:  # another file system, or one without hard links
        with open(old, "rb") as source, atomic_file(new, "wb") as copy:
            shutil.copyfileobj(source, copy)


def _copy(source: str | Path, target: Path) -> str:
    if target.name == TOKENIZER:
        copy_tokenizer(source, target)
        return str(target)
    if not Path(source).is_file():
        raise UserError(f"{source}: {no_file(source)}")
    if Path(source).resolve() != target.resolve():
        with open(source, "rb") as original, atomic_file(target, "wb") as copy:
            shutil.copyfileobj(original, copy)
    return str(target)

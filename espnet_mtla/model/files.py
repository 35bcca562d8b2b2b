"""Experiment folders that can be moved: they hold every file that decoding needs."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError
from espnet_mtla.settings.names import (
    MODEL,
    STATS,
    SYMBOLS,
    TOKENISER,
    TOKENS,
    UPSTREAM,
    WEIGHTS,
)

PARTS = ("frontend", "specaug", "normalize", "encoder")
NEEDED = (
    *("token_list", "bpemodel", "non_linguistic_symbols", "input_size", *PARTS),
    *(f"{part}_conf" for part in (*PARTS, "ctc", "projector", "decoder", "model")),
)
"""Keys of ``config.yaml`` that building a model needs."""


def bundle_files(args: Namespace, folder: str | Path) -> None:
    """Copy the files that the model is built from into ``folder``, and set ``args``."""
    folder = Path(folder)
    if args.normalize == "global_mvn":
        source = args.normalize_conf.get("stats_file")
        if source is None:
            raise UserError("normalize_conf.stats_file: needed by global_mvn")
        copy = _copy(source, folder / STATS)
        args.normalize_conf = {**args.normalize_conf, "stats_file": copy}
    for option, name in (("bpemodel", TOKENISER), ("non_linguistic_symbols", SYMBOLS)):
        if getattr(args, option) is not None:
            setattr(args, option, _copy(getattr(args, option), folder / name))
    path = upstream_path(args.frontend, args.frontend_conf)
    if path is not None:
        copy = str(link_upstream(path, folder))
        args.frontend_conf = {**args.frontend_conf, "path": copy}


def resolve_files(args: Namespace, folder: Path) -> None:
    """Set the paths in ``args`` to the files in ``folder``, as far as they exist.

    Raises:
        UserError: ``args`` lack a key that building a model needs.
    """
    for name in NEEDED:
        if name not in args:
            raise UserError(
                f"{folder}: the configuration has no {name!r}; training and pack write "
                "a complete one"
            )
    if args.normalize == "global_mvn":
        stats = _resolve(args.normalize_conf.get("stats_file"), folder / STATS)
        args.normalize_conf = {**args.normalize_conf, "stats_file": stats}
    if isinstance(args.token_list, str):
        args.token_list = _resolve(args.token_list, folder / TOKENS)
    for option, name in (("bpemodel", TOKENISER), ("non_linguistic_symbols", SYMBOLS)):
        if getattr(args, option) is not None:
            setattr(args, option, _resolve(getattr(args, option), folder / name))
    if getattr(args, "frontend", None) == "s3prl":
        for copy in folder.glob(f"{UPSTREAM}*"):
            args.frontend_conf = {**args.frontend_conf, "path": str(copy)}


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
        f"{file}: no such file; espnet-mtla average makes it from the checkpoints of "
        "training"
    )


def upstream_path(frontend: str | None, settings: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint of a front-end, or None if it is not on this machine."""
    path = settings.get("path") if frontend == "s3prl" else None
    return Path(path) if path and Path(path).exists() else None


def link_upstream(path: Path, folder: Path) -> Path:
    """Put an upstream's checkpoint into ``folder``: a hard link if possible, or a copy.

    Returns:
        Its new path, ``upstream`` with the ending of the file.
    """
    target = folder / f"{UPSTREAM}{'' if path.is_dir() else path.suffix}"
    if path.resolve() == target.resolve():
        return target
    files = {target: path}
    if path.is_dir():
        files = {target / f.name: f for f in path.iterdir() if f.is_file()}
    for new, old in files.items():
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        try:
            os.link(old.resolve(), new)
        except OSError:  # another file system, or one without hard links
            with open(old, "rb") as source, atomic_file(new, "wb") as copy:
                shutil.copyfileobj(source, copy)
    return target


def _copy(source: str | Path, target: Path) -> str:
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    if Path(source).resolve() != target.resolve():
        with open(source, "rb") as original, atomic_file(target, "wb") as copy:
            shutil.copyfileobj(original, copy)
    return str(target)

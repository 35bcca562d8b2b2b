"""An experiment folder that holds all that decoding needs, wherever it is moved."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError

STATS, TOKENISER, SYMBOLS = "feats_stats.npz", "bpe.model", "nlsyms.txt"
TOKENS = "tokens.txt"
UPSTREAM = "upstream"
PARTS = ("frontend", "specaug", "normalize", "encoder")
NEEDED = (
    *("token_list", "bpemodel", "non_linguistic_symbols", "input_size", *PARTS),
    *(f"{part}_conf" for part in (*PARTS, "ctc", "projector", "decoder", "model")),
)
"""Keys without which no ``config.yaml`` says how a model is built."""


def keep_copies(args: Namespace, folder: str | Path) -> None:
    """Copy what the model is built from into its folder, and point ``args`` there."""
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


def use_copies(args: Namespace, folder: Path) -> None:
    """Point ``args`` to the copies in ``folder``: those there, and those named so.

    Raises:
        UserError: ``args`` are not those of a model.
    """
    for name in NEEDED:
        if name not in args:
            raise UserError(
                f"{folder}: the configuration has no {name!r}; training and pack write "
                "a whole one"
            )
    if args.normalize == "global_mvn":
        given = args.normalize_conf.get("stats_file")
        args.normalize_conf = {
            **args.normalize_conf,
            "stats_file": _copy_of(given, folder / STATS),
        }
    if isinstance(args.token_list, str):
        args.token_list = _copy_of(args.token_list, folder / TOKENS)
    for option, name in (("bpemodel", TOKENISER), ("non_linguistic_symbols", SYMBOLS)):
        if getattr(args, option) is not None:
            setattr(args, option, _copy_of(getattr(args, option), folder / name))
    if getattr(args, "frontend", None) == "s3prl":
        for copy in folder.glob(f"{UPSTREAM}*"):
            args.frontend_conf = {**args.frontend_conf, "path": str(copy)}


def _copy_of(given: str | None, copy: Path) -> str | None:
    """The copy where it is there or, in a packed model, meant; else what was given."""
    return str(copy) if copy.exists() or given == copy.name else given


def upstream_path(frontend: str | None, settings: Mapping[str, Any]) -> Path | None:
    """The checkpoint that a front-end is built from, if it lies on this machine."""
    path = settings.get("path") if frontend == "s3prl" else None
    return Path(path) if path and Path(path).exists() else None


def link_upstream(path: Path, folder: Path) -> Path:
    """Take an upstream's checkpoint along: a hard link, which takes no room, or a copy.

    Returns:
        Where it is now: ``upstream`` with the ending of the file.
    """
    target = folder / f"{UPSTREAM}{'' if path.is_dir() else path.suffix}"
    if path.resolve() == target.resolve():
        return target
    files = {target: path}
    if path.is_dir():
        files = {target / f.name: f for f in path.iterdir() if f.is_file()}
    for kept, given in files.items():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        try:
            os.link(given.resolve(), kept)
        except OSError:  # another disk, or one without links
            with open(given, "rb") as source, atomic_file(kept, "wb") as copy:
                shutil.copyfileobj(source, copy)
    return target


def _copy(source: str | Path, target: Path) -> str:
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    if Path(source).resolve() != target.resolve():
        with open(source, "rb") as given, atomic_file(target, "wb") as kept:
            shutil.copyfileobj(given, kept)
    return str(target)

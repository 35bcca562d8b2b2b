"""An experiment folder that holds all that decoding needs, wherever it is moved."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError

STATS, TOKENISER, SYMBOLS = "feats_stats.npz", "bpe.model", "nlsyms.txt"
TOKENS = "tokens.txt"


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


def use_copies(args: Namespace, folder: Path) -> None:
    """Point ``args`` to the copies in ``folder``, where there are any."""
    if args.normalize == "global_mvn" and (folder / STATS).exists():
        stats = {"stats_file": str(folder / STATS)}
        args.normalize_conf = {**args.normalize_conf, **stats}
    if isinstance(args.token_list, str) and (folder / TOKENS).exists():
        args.token_list = str(folder / TOKENS)
    for option, name in (("bpemodel", TOKENISER), ("non_linguistic_symbols", SYMBOLS)):
        if getattr(args, option) is not None and (folder / name).exists():
            setattr(args, option, str(folder / name))


def _copy(source: str | Path, target: Path) -> str:
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    if Path(source).resolve() != target.resolve():
        with open(source, "rb") as given, atomic_file(target, "wb") as kept:
            shutil.copyfileobj(given, kept)
    return str(target)

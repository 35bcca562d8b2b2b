"""When, with what and from which commit a result was made."""

from __future__ import annotations

import datetime
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import espnet_mtla


@dataclass(frozen=True)
class Provenance:
    """``commit`` is ``None`` outside a git checkout, and ends in ``+`` if edited."""

    date: str
    versions: dict[str, str]
    commit: str | None


def provenance() -> Provenance:
    """Of this moment and this installation."""
    return Provenance(
        date=datetime.date.today().isoformat(),
        versions={
            "espnet_mtla": espnet_mtla.__version__,
            "torch": _version("torch"),
            "espnet": _version("espnet"),
        },
        commit=_commit(Path(espnet_mtla.__file__).parent),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit(package: Path) -> str | None:
    # A package installed into a virtual environment may lie inside somebody's checkout
    # without being part of it: so git is asked for the file, not for the folder.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(package, "rev-parse", "--short", "HEAD")
    edited = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{head}+" if head and edited else head


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or ``None`` where there is no git or it refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""Provenance of a result: date, package versions and git commit."""

from __future__ import annotations

import datetime
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import espnet_mtla


@dataclass(frozen=True)
class Provenance:
    """Date (ISO), versions by package, and commit.

    ``commit`` is ``None`` outside a git checkout; it ends in ``+`` if modified.
    """

    date: str
    versions: dict[str, str]
    commit: str | None


def provenance() -> Provenance:
    """Return the provenance of a result computed now by this installation."""
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
    # A virtual environment may lie inside an unrelated checkout: check that git tracks
    # the package's file, not only that the folder is inside a checkout.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(package, "rev-parse", "--short", "HEAD")
    edited = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{head}+" if head and edited else head


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git and return its output; ``None`` if git is missing or fails."""
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

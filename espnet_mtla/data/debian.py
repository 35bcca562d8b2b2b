"""Download and unpack Debian packages as data, without root, into private folders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.errors import UserError

# All of apt's output goes below one private folder. The system's hooks (which clean
# caches or build desktop indexes) are disabled: they need root.
_CONFIG = """\
Dir::State "{root}/state";
Dir::Cache "{root}/cache";
Acquire::Languages "{languages}";
Acquire::GzipIndexes "false";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def fetch_packages(names: Sequence[str], target: Path, instead: str) -> Path:
    """Download packages, unpack them into ``target`` and return it.

    An existing ``target`` is complete, because it is written atomically; then nothing
    is done. Downloads and apt's state are in the folder ``apt`` beside it.

    Args:
        names: packages.
        target: output folder.
        instead: what the user can do otherwise; part of every error.
    Raises:
        UserError: apt or dpkg is missing, or fails.
    """
    if target.is_dir():
        print(f"fetch: {target} is there already", flush=True)
        return target
    _require(("apt-get", "dpkg"), instead)
    root = target.parent / "apt"
    debs = root / "packages"
    apt = update(root, instead)
    debs.mkdir(parents=True, exist_ok=True)
    print(f"fetch: {' '.join(names)}", flush=True)
    call([*apt, "download", *names], debs, instead)
    with atomic_folder(target) as aside:
        for name in names:
            # NAME_VERSION_ARCH.deb: of several versions, use the last downloaded.
            archive = max(debs.glob(f"{name}_*.deb"), key=lambda p: p.stat().st_mtime)
            print(f"fetch: unpacking {archive.name}", flush=True)
            call(["dpkg", "-x", str(archive), str(aside)], Path.cwd(), instead)
    return target


def update(root: Path, instead: str, languages: str = "none") -> list[str]:
    """Download the package index into a private folder.

    Args:
        root: folder of apt's state, cache and configuration.
        instead: what the user can do otherwise; part of every error.
        languages: apt's ``Acquire::Languages``.
    Returns:
        ``apt-get`` with the options that use it.
    Raises:
        UserError: apt is missing, or fails.
    """
    _require(("apt-get",), instead)
    root = root.resolve()
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with atomic_file(root / "apt.conf") as stream:
        stream.write(_CONFIG.format(root=root, languages=languages))
    apt = ["apt-get", "-q", "-c", str(root / "apt.conf")]
    print(f"fetch: package index, into {root / 'state'}", flush=True)
    call([*apt, "update"], root, instead)
    return apt


def call(command: Sequence[str], folder: Path, instead: str) -> str:
    """Run ``command`` in ``folder``; return stdout. Failure is a UserError."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        message = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise UserError(f"{' '.join(command)} failed ({message}): {instead}")
    return done.stdout


def _require(tools: Sequence[str], instead: str) -> None:
    """Raise UserError if a program is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise UserError(f"this machine has no {missing[0]}: {instead}")

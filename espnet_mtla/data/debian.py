"""Debian packages as data: fetched and unpacked without root, in folders of our own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from espnet_mtla.data.atomic import atomic_file, atomic_folder
from espnet_mtla.errors import UserError

# Everything apt writes goes below one folder of ours, and hooks of the system's own apt
# configuration (cleaning of caches, indexes of desktops) are not for us to run.
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
    """Download and unpack packages into ``target``; returns it.

    A folder that is already there is complete, for it is renamed into place last, and
    is left as it is. Downloads and apt's state lie in ``apt`` beside it.

    Args:
        instead: the way out for the user, told with every error.
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
            # The versions of a name differ after its first underscore; newest last.
            archive = max(debs.glob(f"{name}_*.deb"), key=lambda p: p.stat().st_mtime)
            print(f"fetch: unpacking {archive.name}", flush=True)
            call(["dpkg", "-x", str(archive), str(aside)], Path.cwd(), instead)
    return target


def update(root: Path, instead: str, languages: str = "none") -> list[str]:
    """Get the index of packages into a private state below ``root``.

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
    """Run ``command`` in ``folder``; its output, or a UserError of its complaint."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise UserError(f"{' '.join(command)} failed ({said}): {instead}")
    return done.stdout


def _require(tools: Sequence[str], instead: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise UserError(f"this machine has no {missing[0]}: {instead}")

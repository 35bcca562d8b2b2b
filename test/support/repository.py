"""The repository's files and commands, for tests that read or run them."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "espnet_mtla"
PYTHON_FILES = sorted(
    path
    for folder in ("espnet_mtla", "test", "egs2")
    for path in (ROOT / folder).rglob("*.py")
)
SHELL_FILES = sorted(
    path for folder in ("egs2", "utils") for path in (ROOT / folder).rglob("*.sh")
)
COMMANDS = sorted(
    path.stem
    for path in (PACKAGE / "bin").glob("*.py")
    if path.stem not in ("__init__", "cli")
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python(code: str, *args: str, **env: str) -> str:
    """Run code in an interpreter of its own; returns what it prints."""
    shown = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", **env},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@functools.cache
def help_of(*command: str) -> str:
    shown = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout

"""Recipes to run: one whose commands are stubs, for the pipeline's own mechanics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "validate_data",
    "perturb_speed",
    "format_audio",
    "filter_data",
    "tokenise",
    "train",
    "average",
    "inference",
    "score",
    "results",
)
RUN = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ../../TEMPLATE/pipeline.sh --nbest 2 "$@"
"""
DATA = """#!/usr/bin/env bash
set -euo pipefail
[ "${1:-}" != --corpus ] || [ -d "$2" ] || { echo "error: $2: no corpus" >&2; exit 1; }
echo data >>"$STUB_CALLS"
for set in train valid test; do
    mkdir -p "data/$set"
    echo "text of $set" >"data/$set/text"
    echo "sound of $set" >"data/$set/wav.scp"
    if [ "${STUB_HANG:-}" = data ] && [ $set = valid ]; then
        echo $$ >"$STUB_CALLS.hang"
        while [ -e "$STUB_CALLS.hang" ]; do sleep 0.02; done
    fi
done
"""


class Recipe:
    """A recipe's folder in a tree of its own, and how to run it."""

    def __init__(self, folder: Path, calls: Path) -> None:
        self.folder, self.calls_file = folder, calls
        self.env = {
            **os.environ,
            "STUB_CALLS": str(calls),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH"):
            self.env.pop(name, None)

    def start(self, *options: str, **env: str) -> subprocess.Popen:
        """The recipe in a session of its own, deaf to nothing."""
        return subprocess.Popen(
            [self.folder / "run.sh", *options],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A test run in the background would hand on that it ignores ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *options: str, code: int = 0, timeout: float = 60, **env: str) -> str:
        """Run to the end, check the exit code, return all that was printed."""
        process = self.start(*options, **env)
        try:
            output = process.communicate(timeout=timeout)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, output
        return output

    def wait_for_hang(self, process: subprocess.Popen, seconds: float = 30) -> int:
        """Wait until the command named by STUB_HANG stands; returns its process id."""
        hang = Path(f"{self.calls_file}.hang")
        end = time.monotonic() + seconds
        while not (hang.exists() and hang.read_text().strip()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the command was never started"
            time.sleep(0.02)
        return int(hang.read_text())

    def release(self) -> None:
        Path(f"{self.calls_file}.hang").unlink(missing_ok=True)

    def calls(self) -> list[str]:
        """What was called since the last time this was asked, a line a call."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return lines

    def names(self) -> list[str]:
        return [line.split()[0] for line in self.calls()]

    def outputs(self) -> dict[str, str]:
        """Every file that the stages made but logs, marks and locks."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            hidden = any(part.startswith(".") for part in name.split("/"))
            if path.is_file() and not hidden and "logs/" not in name:
                found[name] = path.read_text()
        return found

    def snapshot(self) -> dict[str, int]:
        """All files with their times of change."""
        return {str(path): path.lstat().st_mtime_ns for path in self.folder.rglob("*")}


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[[str], Recipe]:
    """Makes recipes whose commands are stubs, each in a tree of its own."""

    def make(name: str = "tree", top: Path | None = None) -> Recipe:
        tree = (top or tmp_path) / name
        shutil.copytree(ROOT / "egs2" / "TEMPLATE", tree / "egs2" / "TEMPLATE")
        package = tree / "espnet_mtla"
        (package / "bin").mkdir(parents=True)
        for init in (package, package / "bin"):
            (init / "__init__.py").touch()
        stub = Path(__file__).with_name("stub.py").read_text()
        for command in COMMANDS:
            (package / "bin" / f"{command}.py").write_text(stub)
        folder = tree / "egs2" / "toy" / "asr1"
        write_script(folder / "run.sh", RUN)
        write_script(folder / "local" / "data.sh", DATA)
        for config in ("train", "encoder", "decode"):
            path = folder / "conf" / f"{config}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text("lr: 1\nmax_epoch: 3\n")
        for attention in ("mha", "mtla_s2"):
            path = tree / "conf" / "attention" / f"{attention}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"attention: {attention}\n")
        return Recipe(folder, tree / "calls")

    return make


@pytest.fixture
def recipe(make_recipe: Callable[[str], Recipe]) -> Recipe:
    return make_recipe()

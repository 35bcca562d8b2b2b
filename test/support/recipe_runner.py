"""Run a recipe as a user does, kill it, and read its results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _default_handlers() -> None:
    """Undo what a test run in the background, or under nohup, would hand on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
        """Start the recipe in a session of its own, with default signal handlers."""
        return subprocess.Popen(
            [self.folder / "run.sh", *options],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_default_handlers,
        )

    def run(
        self, *options: str, code: int = 0, timeout: float = 300, **env: str
    ) -> str:
        """Run to the end, check the exit code and return the output."""
        process = self.start(*options, **env)
        try:
            output = process.communicate(timeout=timeout)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, output
        return output

    def wait_for_hang(self, process: subprocess.Popen, seconds: float = 120) -> int:
        """Wait until the command named by STUB_HANG hangs; return its process id."""
        hang = Path(f"{self.calls_file}.hang")
        end = time.monotonic() + seconds
        while not (hang.exists() and hang.read_text().strip()):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the command was never started"
            time.sleep(0.02)
        return int(hang.read_text())

    def release(self) -> None:
        Path(f"{self.calls_file}.hang").unlink(missing_ok=True)

    def peek(self) -> list[str]:
        """Return all calls so far."""
        file = self.calls_file
        return file.read_text().splitlines() if file.exists() else []

    def calls(self) -> list[str]:
        """Return the calls since the last call of this method."""
        lines = self.peek()
        self.calls_file.unlink(missing_ok=True)
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

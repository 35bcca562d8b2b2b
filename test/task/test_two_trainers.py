"""A second training in one folder is refused; a killed one blocks nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mtla.data import lock
from espnet_mtla.errors import UserError
from test.support.toy_corpus import Toy

HOLD = """
import sys, time
from pathlib import Path
from espnet_mtla.data.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that has locked the folder ``exp``."""
    command = [sys.executable, "-c", HOLD, tmp_path / "exp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_training_is_refused_until_the_first_ends(
    tmp_path: Path, other: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    toy = Toy(tmp_path / "toy")
    toy("--collect_stats")
    train = ("--output_dir", tmp_path / "exp", "--max_epoch", "1")
    with pytest.raises(UserError, match=rf"exp: another .* \(process {other.pid} on"):
        toy(*train)
    assert [path.name for path in (tmp_path / "exp").iterdir()] == [".lock"]
    other.kill()
    other.wait()
    toy(*train)
    assert (tmp_path / "exp/1epoch.pth").is_file()

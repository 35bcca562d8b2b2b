"""How commands fail: one line and an exit code, a traceback for our own mistakes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from espnet_mtla.bin.cli import run
from espnet_mtla.errors import UserError


def raising(error: BaseException) -> None:
    def main() -> None:
        raise error

    run(main)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("text: no such key"), "error: text: no such key"),
        (FileNotFoundError(errno.ENOENT, "", "a/b"), "error: a/b: no such file or"),
        (OSError(errno.ENOSPC, "", "a/b"), "error: a/b: no space left on the device"),
        (ModuleNotFoundError(name="kaldiio"), "error: kaldiio: not installed; utils/"),
        (ModuleNotFoundError(name="espnet2.asr"), "error: espnet2: not installed"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        raising(error)
    shown = capsys.readouterr().err
    assert left.value.code == 1
    assert shown.startswith(line) and shown.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("x"), ModuleNotFoundError(name="espnet_mtla.gone")]
)
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(error)


def test_ctrl_c_is_130() -> None:
    with pytest.raises(SystemExit) as left:
        raising(KeyboardInterrupt())
    assert left.value.code == 130


def test_a_list_of_commands_whose_reader_leaves_is_no_failure() -> None:
    """As ``espnet-mtla --help | head -1`` does."""
    command = [sys.executable, "-m", "espnet_mtla", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")

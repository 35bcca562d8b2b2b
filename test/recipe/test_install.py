"""utils/install.sh where it has to refuse: one clear line, and nothing done."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_runner import ROOT

PYTHON = """#!/usr/bin/env bash
# Answers as a Python of another version would, or one that lacks something.
case "$*" in
    *version_info*) exit {fits} ;;
    *python_version*) echo {version} ;;
    *ensurepip*) exit {lacks_ensurepip} ;;
    *"-m pip "*) [ "$3" = --version ] || {{ echo "no connection" >&2; exit 1; }} ;;
    *) exit 1 ;;
esac
"""


class Checkout:
    """A copy of what install.sh reads, and a PATH that is ours alone."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        (self.root / "utils").mkdir(parents=True)
        for name in ("install.sh", "constraints.txt", "overrides.txt"):
            shutil.copy(ROOT / "utils" / name, self.root / "utils" / name)
        shutil.copy(ROOT / "setup.py", self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ("python3", "python3.10", "python3.11", "python3.12"):
            self.fake(tool, fits=1, version="3.9.2")

    def fake(
        self, name: str, fits: int = 0, version: str = "3.11.4", ensurepip: bool = True
    ) -> Path:
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            PYTHON.format(
                fits=fits, version=version, lacks_ensurepip=int(not ensurepip)
            )
        )
        path.chmod(0o755)
        return path

    def environment(self, version: str = "3.11.4", fits: int = 0) -> Path:
        """An active virtual environment; nothing is installed in it."""
        folder = self.root.parent / "active"
        python = folder / "bin" / "python3"
        python.parent.mkdir(parents=True)
        shutil.copy(self.fake("made", fits, version), python)
        return folder

    def run(self, *options: str, code: int = 1, **env: str) -> str:
        path = f"{self.bin}:/usr/bin:/bin"
        shown = subprocess.run(
            [self.root / "utils" / "install.sh", *options],
            env={"PATH": path, "HOME": str(self.root.parent), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert shown.returncode == code, shown.stdout
        return shown.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def only_error(output: str) -> str:
    """The error line, which is the last one and the only one."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and output.splitlines()[-1] == errors[0], output
    return errors[0]


def test_help_says_where_it_installs(checkout) -> None:
    output = checkout.run("--help", code=0)
    assert f"{checkout.root}/.venv" in output
    for option in ("--extras", "--python", "--force"):
        assert option in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra", "dev"], "unknown option --extra"),
        (["--extras"], "--extras needs a value"),
        (["--extras", "recipes docs"], "unknown part 'docs'; known are recipes hf"),
    ],
)
def test_bad_options(checkout, options: list[str], words: str) -> None:
    assert words in only_error(checkout.run(*options))


def test_python_too_old_or_too_new(checkout) -> None:
    words = only_error(checkout.run())
    assert "python3 is Python 3.9.2, and 3.10 to 3.12 are needed" in words
    newer = checkout.fake("python9", fits=1, version="3.14.0")
    assert "is Python 3.14.0" in only_error(checkout.run("--python", str(newer)))
    assert not (checkout.root / ".venv").exists()


def test_no_such_python(checkout) -> None:
    words = only_error(checkout.run("--python", "python3.99"))
    assert "python3.99 is Python (not found)" in words


def test_active_environment_of_another_python(checkout) -> None:
    active = checkout.environment(version="3.8.1", fits=1)
    words = only_error(checkout.run(VIRTUAL_ENV=str(active)))
    assert f"{active} holds Python 3.8.1" in words and "deactivate" in words


def test_python_option_does_not_change_an_environment(checkout) -> None:
    active = checkout.environment(version="3.11.4")
    other = checkout.fake("python9", version="3.12.0")
    output = checkout.run("--python", str(other), VIRTUAL_ENV=str(active))
    assert "is there already, with Python 3.11.4" in only_error(output)


def test_debian_without_venv_names_the_package(checkout) -> None:
    checkout.fake("python3.11", ensurepip=False)
    words = only_error(checkout.run())
    assert "apt-get install python3-venv" in words
    assert not (checkout.root / ".venv").exists()


def test_full_disk(checkout) -> None:
    df = checkout.bin / "df"
    df.write_text("#!/bin/sh\necho head\necho /dev/x 9999999 9 2097152 1% /\n")
    df.chmod(0o755)
    active = checkout.environment()
    words = only_error(checkout.run(VIRTUAL_ENV=str(active)))
    assert f"{active}: 2 GB free, and the packages need 6 GB" in words


def test_no_network(checkout) -> None:
    df = checkout.bin / "df"
    df.write_text("#!/bin/sh\necho head\necho /dev/x 9999999 9 99999999 1% /\n")
    df.chmod(0o755)
    active = checkout.environment()
    output = checkout.run(VIRTUAL_ENV=str(active))
    assert "is there a network" in only_error(output)
    assert "no connection" in output


def test_stamped_environment_is_left_alone(checkout, tmp_path: Path) -> None:
    active = tmp_path / "stamped"
    (active / "bin").mkdir(parents=True)
    python = active / "bin" / "python3"
    # No installer in it, so that nothing can come of it when the stamp is not trusted.
    python.write_text(
        f'#!/bin/sh\ncase "$2" in uv|pip) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    files = ("setup.py", "utils/constraints.txt", "utils/overrides.txt")
    content = [(checkout.root / name).read_bytes() for name in files]
    content += [f"{platform.python_version()}\n{checkout.root}\n".encode()]
    key = hashlib.sha256(b"".join(content)).hexdigest()
    stamp = active / ".espnet_mtla_stamp"
    stamp.write_text(f"{key} core\n{key} recipes\n")
    env = {"VIRTUAL_ENV": str(active), "PYTHONPATH": str(ROOT)}
    output = checkout.run(code=0, **env)
    assert "everything is there" in output
    # Changed requirements are noticed.
    (checkout.root / "setup.py").write_bytes(content[0] + b"# more\n")
    assert "has neither pip nor uv" in only_error(checkout.run(**env))

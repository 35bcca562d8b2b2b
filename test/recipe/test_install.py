"""Errors of utils/install.sh: one line, and nothing installed."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import ssl
import subprocess
import sys
import threading
import venv
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from test.support.recipe_runner import ROOT

PYTHON = """#!/usr/bin/env bash
# Answers as a Python of another version would, or one that lacks something.
case "$*" in
    *version_info*) exit {fits} ;;
    *python_version*) echo {version} ;;
    *ensurepip*) exit {lacks_ensurepip} ;;
    *) exit 1 ;;
esac
"""


class Checkout:
    """A copy of the files that install.sh reads, and a PATH of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        (self.root / "utils").mkdir(parents=True)
        shutil.copy(ROOT / "utils" / "install.sh", self.root / "utils")
        shutil.copytree(ROOT / "utils" / "lock", self.root / "utils" / "lock")
        lock = self.root / "utils" / "lock" / "environment.txt"
        lock.write_text(f"absl-py==2.5.1 --hash=sha256:{64 * '0'}\n")
        for name in ("pyproject.toml", "setup.py"):
            shutil.copy(ROOT / name, self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ("python3", *(f"python3.{minor}" for minor in range(10, 14))):
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


def last_error(output: str) -> str:
    """The last line, after what an installer itself has said."""
    line = output.splitlines()[-1]
    assert line.startswith("error: "), output
    return line


def only_error(output: str) -> str:
    """The error line, which is the last one and the only one."""
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and output.splitlines()[-1] == errors[0], output
    return errors[0]


def test_help_says_where_it_installs(checkout) -> None:
    output = checkout.run("--help", code=0)
    assert f"{checkout.root}/.venv" in output
    for option in ("--versions", "--python", "--force"):
        assert option in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra", "dev"], "unknown option --extra"),
        (["--extras", "recipes ssl"], "the lock holds every part"),
        (["--transformers", "4.1"], "'4.1' is none of 4.57 5.23"),
        (["--versions"], "--versions needs a value"),
        (["--versions", "new"], "'new' is none of locked, newest, oldest"),
    ],
)
def test_bad_options(checkout, options: list[str], words: str) -> None:
    assert words in only_error(checkout.run(*options))


def test_python_too_old_or_too_new(checkout) -> None:
    words = only_error(checkout.run())
    assert "python3 is Python 3.9.2, and 3.10 to 3.13 are needed" in words
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
    assert f"{active}: 2 GB free, and the packages need 7 GB" in words


@pytest.fixture
def active(checkout) -> Path:
    """An active environment on a disk that is big enough."""
    df = checkout.bin / "df"
    df.write_text("#!/bin/sh\necho head\necho /dev/x 9999999 9 99999999 1% /\n")
    df.chmod(0o755)
    return checkout.environment()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"])
def test_missing_certificate_file_is_named(checkout, active: Path, name: str) -> None:
    missing = str(checkout.root / "no" / "ca.pem")
    output = checkout.run(VIRTUAL_ENV=str(active), **{name: missing})
    assert f"{name}: {missing}: no such file" in only_error(output)


class Index:
    """A package index behind a certificate that an authority of our own has signed."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)

        class NoPackages(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                del args

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                del args  # a client that refuses the certificate is what is tested

        # Without a handshake on accepting, which would be in the server's own thread.
        self.server = Server(("localhost", 0), NoPackages)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://localhost:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def index(tmp_path: Path):
    index = Index(tmp_path)
    yield index
    index.server.shutdown()
    index.server.server_close()


def real_environment(checkout: Checkout, with_pip: bool) -> Path:
    """A real virtual environment, whose installer is pip or the uv of the tests."""
    folder = checkout.root.parent / "real"
    venv.create(folder, with_pip=with_pip)
    if not with_pip:
        uv = checkout.bin / "uv"
        uv.write_text(f'#!/bin/sh\nexec {sys.executable} -m uv "$@"\n')
        uv.chmod(0o755)
    return folder


@pytest.mark.parametrize("with_pip", [True, False], ids=["pip", "uv"])
def test_no_network(checkout, active, with_pip: bool) -> None:
    del active  # for its disk
    url = "http://127.0.0.1:1/simple"  # nobody answers
    output = checkout.run(
        VIRTUAL_ENV=str(real_environment(checkout, with_pip)),
        PIP_INDEX_URL=url,
        UV_DEFAULT_INDEX=url,
        PIP_RETRIES="0",
        UV_HTTP_RETRIES="0",
        PIP_CONFIG_FILE=os.devnull,
    )
    assert "no network" in last_error(output)


@pytest.mark.parametrize("with_pip", [True, False], ids=["pip", "uv"])
def test_proxy_with_its_own_authority(checkout, active, index, with_pip: bool) -> None:
    """A refused certificate is reported; one named in a variable is trusted."""
    del active  # for its disk
    env = {
        "VIRTUAL_ENV": str(real_environment(checkout, with_pip)),
        "PIP_INDEX_URL": index.url,
        "UV_DEFAULT_INDEX": index.url,
        "PIP_RETRIES": "0",
        "UV_HTTP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }
    words = last_error(checkout.run(**env))
    assert "certificate" in words and "SSL_CERT_FILE=" in words, words
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        output = checkout.run(**env, **{name: str(index.authority)})
        words = last_error(output)
        assert "certificate" not in words, output
        assert "No matching distribution" in output or "not found" in output, output


def test_stamped_environment_is_left_alone(checkout, tmp_path: Path) -> None:
    active = tmp_path / "stamped"
    (active / "bin").mkdir(parents=True)
    python = active / "bin" / "python3"
    # No installer in it, so that nothing can come of it when the stamp is not trusted.
    python.write_text(
        f'#!/bin/sh\ncase "$2" in uv|pip) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    files = [checkout.root / "pyproject.toml", checkout.root / "setup.py"]
    files += sorted((checkout.root / "utils" / "lock").glob("*.txt"))
    content = [file.read_bytes() for file in files]
    content += [f"{platform.python_version()}\n{checkout.root}\n".encode()]
    key = hashlib.sha256(b"".join(content)).hexdigest()
    stamp = active / ".espnet_mtla_stamp"
    stamp.write_text(f"{key}\n")
    env = {"VIRTUAL_ENV": str(active), "PYTHONPATH": str(ROOT)}
    output = checkout.run(code=0, **env)
    assert "everything is there" in output
    # Changed requirements are noticed.
    (checkout.root / "utils" / "lock" / "environment.txt").write_text("torch==9\n")
    assert "has neither pip nor uv" in only_error(checkout.run(**env))

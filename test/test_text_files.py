"""Text and JSON files: broken ones are one line that names the file."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mtla.errors import UserError
from espnet_mtla.text_files import parse_json, read_json, read_text


def test_text_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    for content in ("é\n", "\ufeffé\n"):
        (tmp_path / "a").write_text(content, encoding="utf-8")
        assert read_text(tmp_path / "a") == "é\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff", "not UTF-8 text"),
        (b"{", r"not JSON \(.*\); run again"),
        (b"", r"not JSON \(.*\); run again"),
        (b"[]", "not a JSON object; run again"),
        (b'{"a": ' + b"[" * 100_000, "JSON that is nested too deeply; run again"),
        (b'{"a": ' + b"9" * 10_000 + b"}", r"not JSON \(Exceeds the limit"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_a_broken_file_is_one_line(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: {message}") as caught:
        read_json(path, "run again")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder; a file is needed"):
        read_text(tmp_path)
    with pytest.raises(UserError, match=r"token_list: x+: File name too long"):
        read_text("x" * 5000, "token_list: ")


def test_lines_of_json() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]", "a:1") == [1]
    with pytest.raises(UserError, match="a:2: not JSON"):
        parse_json(b"\xff", "a:2")


@pytest.fixture(params=["pipe", "socket", "link"])
def no_file(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Something that is there and no file, and how messages call it."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = Path("odd.yaml")
    what = "a pipe, a socket or a device; a file is needed"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "link":
        path.symlink_to("nowhere")
        what = "a link to no file"
    with socket.socket(socket.AF_UNIX) as server:
        if request.param == "socket":
            server.bind(str(path))
        yield path, what


def test_what_is_there_and_no_file_is_called_so(no_file) -> None:
    """And nothing waits for a pipe."""
    from espnet_mtla.data.table import read_table
    from espnet_mtla.recognise.options import folder_options
    from espnet_mtla.search.ngram import read_arpa
    from espnet_mtla.settings.yaml_files import load_config

    path, what = no_file
    for read in (read_text, read_table, read_arpa, load_config, read_json):
        with pytest.raises(UserError, match=f"odd.yaml: {what}"):
            read(path)
    if "link" not in what:
        path.rename("decode.yaml")
        with pytest.raises(UserError, match=f"decode.yaml: {what}"):
            folder_options(Path())


def test_the_shells_own_pipes_are_read() -> None:
    code = "import sys; from espnet_mtla.text_files import read_text\n"
    code += "print(read_text(sys.argv[1]), end='')"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <(echo hello)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == b"hello\n"

"""Text and JSON files: broken ones are one line that names the file."""

from __future__ import annotations

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

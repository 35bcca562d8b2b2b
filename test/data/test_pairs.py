"""Pairs of texts: what is kept, cut and dropped, and what does not belong together."""

from __future__ import annotations

import pytest

from espnet_mtla.data.pairs import filter_pairs
from espnet_mtla.data.table import read_table, write_table
from espnet_mtla.errors import UserError

NAMES = ("text.source", "text")


@pytest.fixture
def folder(tmp_path):
    write_table(
        tmp_path / "in" / NAMES[0],
        {"a": "one two three four", "b": "five", "c": "", "d": "six"},
    )
    write_table(
        tmp_path / "in" / NAMES[1], {"a": "few", "b": "", "c": "none", "d": "6"}
    )
    return tmp_path / "in"


def test_empty_ones_are_dropped_and_long_ones_cut(folder, tmp_path, capsys):
    dropped = filter_pairs(folder, tmp_path / "out", NAMES, max_words=3)
    assert dropped == {"b": "empty text", "c": "empty text.source"}
    assert read_table(tmp_path / "out" / "dropped") == dropped
    kept = read_table(tmp_path / "out" / "text.source")
    assert kept == {"a": "one two three", "d": "six"}
    assert read_table(tmp_path / "out" / "text") == {"a": "few", "d": "6"}
    counts = dict(
        line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert counts["in"] == "4" and counts["kept"] == "2"
    assert counts["dropped, empty text"] == "1"
    assert counts["  of them cut to --max_words"] == "1"


def test_a_test_set_keeps_its_empty_targets(folder, tmp_path):
    dropped = filter_pairs(folder, tmp_path / "out", NAMES, empty_target=True)
    assert dropped == {"c": "empty text.source"}
    kept = read_table(tmp_path / "out" / "text")
    assert kept == {"a": "few", "b": "", "d": "6"}


def test_unmatched_keys_are_named(folder, tmp_path):
    write_table(folder / "text", {"a": "few", "b": "x", "c": "y"})
    with pytest.raises(UserError, match=r"text: d of .*text\.source is missing \(4 so"):
        filter_pairs(folder, tmp_path / "out", NAMES)
    assert not (tmp_path / "out").exists()


def test_nothing_left_is_an_error(folder, tmp_path):
    write_table(folder / "text", dict.fromkeys("abcd", ""))
    with pytest.raises(UserError, match="no pair is left; the first, a: empty text"):
        filter_pairs(folder, tmp_path / "out", NAMES)
    assert not (tmp_path / "out").exists()

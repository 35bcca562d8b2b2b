"""Texts in three formats give the same request; mismatches are one-line errors."""

from __future__ import annotations

import json

import pytest

from espnet_mtla.errors import UserError
from espnet_mtla.score.texts import read_request

REFS, HYPS = {"a": "eins zwei", "b": "drei"}, {"b": "drei", "a": ""}


@pytest.fixture
def write(tmp_path):
    def call(name: str, *lines: str) -> str:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return call


def as_kaldi(table):
    return [f"{key} {text}".rstrip() for key, text in table.items()]


def as_jsonl(table, key="key", field="text"):
    return [json.dumps({key: k, field: t, "x": 1}) for k, t in table.items()]


def test_three_forms_of_the_same_texts(write):
    kaldi = read_request([write("ref", *as_kaldi(REFS))], write("hyp", *as_kaldi(HYPS)))
    assert (kaldi.keys, kaldi.refs, kaldi.hyps) == (
        ("a", "b"),
        ("eins zwei", "drei"),
        ("", "drei"),
    )
    jsonl = read_request(
        [write("ref.jsonl", *as_jsonl(REFS, "id", "summary"))],
        write("hyp.jsonl", *as_jsonl(HYPS)),
        fields=("summary", "text"),
    )
    assert jsonl == kaldi
    lines = read_request(
        [write("ref.de", *REFS.values())], write("hyp.de", "", "drei"), form="lines"
    )
    assert (lines.refs, lines.hyps) == (kaldi.refs, kaldi.hyps)


def test_several_references(write):
    refs = [write("r1", "a x", "b y"), write("r2", "b yy", "a xx")]
    request = read_request(refs, write("h", "a x", "b y"))
    assert [request.references(i) for i in (0, 1)] == [["x", "xx"], ["y", "yy"]]
    one = write("r.jsonl", '{"key": "a", "text": ["x", "xx"]}')
    request = read_request([one], write("h.jsonl", '{"key": "a", "text": "x"}'))
    assert request.references(0) == ["x", "xx"]


@pytest.mark.parametrize(
    ("name", "lines", "form", "message"),
    [
        ("h", ["x", "y", "z"], "lines", "ref lacks 1 of 3 (3)"),
        ("h", ["x"], "lines", "h lacks 1 of 2 (2)"),
        ("h", ["x y", "z w"], "auto", "plain lines? --format lines"),
        ("h.jsonl", ['{"key": "1"}'], "jsonl", "h.jsonl:1: no field 'text'"),
        ("h.jsonl", ['{"text": "1"}'], "jsonl", "h.jsonl:1: no key"),
        ("h.jsonl", ['{"id": null, "text": "1"}'], "jsonl", "h.jsonl:1: no key"),
        ("h.jsonl", ["", "{"], "jsonl", "h.jsonl:2: not JSON"),
        ("h.jsonl", ['{"key": 1, "text": "\\ud83d"}'], "jsonl", "half a character"),
        ("h.jsonl", ['{"key": 1, "text": 2}'], "jsonl", "neither text nor texts"),
        ("h.jsonl", ['{"key": 1, "text": "a"}'] * 2, "jsonl", "'1' occurs twice"),
        ("h.jsonl", ['{"key": 1, "text": ["a", "b"]}'], "jsonl", "2 hypotheses"),
    ],
)
def test_bad_hypotheses(write, name, lines, form, message):
    refs = {
        "lines": ["eins", "zwei"],
        "auto": ["1 eins", "2 zwei"],
        "jsonl": ['{"key": "1", "text": "eins"}'],
    }[form]
    with pytest.raises(UserError) as caught:
        read_request([write("ref", *refs)], write(name, *lines), form=form)
    assert message in str(caught.value)


def test_references_without_any_word_are_refused(write):
    ref = write("ref.jsonl", '{"key": "a", "text": " "}')
    with pytest.raises(
        UserError, match=r"ref\.jsonl: none of 1 references has a word$"
    ):
        read_request([ref], write("h.jsonl", '{"key": "a", "text": "x"}'))


def test_marks_of_editors_and_systems_change_nothing(tmp_path):
    """A byte-order mark, CRLF, and empty lines between objects."""
    ref, hyp = tmp_path / "ref", tmp_path / "hyp.jsonl"
    ref.write_bytes("\ufeffa eins\r\nb drei\r\n".encode())
    assert read_request([ref], ref).refs == ("eins", "drei")
    ref.write_bytes("\ufeffeins\r\ndrei\r\n".encode())
    assert read_request([ref], ref, form="lines").refs == ("eins", "drei")
    objects = as_jsonl({"a": "eins", "b": "drei"})
    hyp.write_bytes(("\ufeff" + "\r\n\r\n".join([*objects, ""])).encode())
    assert read_request([hyp], hyp).hyps == ("eins", "drei")


def test_accents_apart_and_composed_are_the_same(write, caplog):
    apart, composed = "a cafe\u0301", "a caf\u00e9"
    request = read_request([write("ref", composed)], write("hyp", apart))
    assert request.refs == request.hyps == ("caf\u00e9",)
    assert "hyp: 1 texts are not in composed form (NFC), the first is a" in caplog.text
    caplog.clear()
    read_request([write("ref", composed)], write("hyp", composed))
    assert not caplog.text

"""Plain lines are distinguished from tables of keys; ambiguous files are refused."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.bin import cli, score
from espnet_mtla.errors import UserError
from espnet_mtla.score.form import forms, read_lines
from espnet_mtla.score.texts import read_request

PLAIN_REF = "Ein Hund schläft.\nEin Mann läuft.\nDie Katze sieht ihn.\n"
PLAIN_HYP = "Ein Hund schlief.\nEin Mann lief.\nDie Katze sah ihn.\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(**contents: str | bytes) -> None:
    for name, content in contents.items():
        raw = content if isinstance(content, bytes) else content.encode()
        Path(name).write_bytes(raw)


@pytest.mark.parametrize("metric", ["wer", "cer", "bleu", "rouge"])
def test_two_plain_files_are_scored_as_lines(monkeypatch, capsys, metric):
    write(ref=PLAIN_REF, hyp=PLAIN_HYP)
    outputs = []
    for extra in ([], ["--format", "lines"]):
        arguments = ["score", metric, "--ref", "ref", "--hyp", "hyp", *extra]
        monkeypatch.setattr(sys, "argv", arguments)
        score.main()
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_that_is_said_in_one_line(caplog):
    write(ref=PLAIN_REF, hyp=PLAIN_HYP, other=PLAIN_REF)
    request = read_request(["ref"], "hyp", "other")
    assert request.keys == ("1", "2", "3")
    assert request.refs[1] == "Ein Mann läuft." and request.others == request.refs
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "ref, hyp, other: no tables of keys (ref:2: key 'Ein' occurs twice): read as "
        "plain lines, paired by number; --format says otherwise"
    )


BOM = "\ufeff"


@pytest.mark.parametrize(
    ("ref", "hyp"),
    [
        (BOM + PLAIN_REF, PLAIN_HYP),
        (PLAIN_REF, BOM + PLAIN_HYP.replace("\n", "\r\n")),
        (PLAIN_REF.removesuffix("\n"), PLAIN_HYP),
        (PLAIN_REF, PLAIN_HYP.replace("\n", "\r\n").removesuffix("\r\n")),
        (PLAIN_REF.replace(" ", "\t"), PLAIN_HYP.replace(" ", "\u00a0")),
        # An empty line is an empty text, wherever it stands.
        ("a b\n\na c\n", "a b\na c\n\n"),
        ("ja\nja\nnein\n", "ja\nja\n\n"),
        ("\na\n", "b\n\n"),  # no first word twice, but other ones, too
        # A no-break space in the first word: no key, and no reason to fail.
        ("«\u00a0Oui.\n«\u00a0Non.\n", "«\u00a0Oui.\n«\u00a0Si.\n"),
        ("«\u00a0Oui.\nNon.\n", "Oui.\nOui.\n"),
    ],
)
def test_lines_that_are_no_tables(ref, hyp):
    write(ref=ref, hyp=hyp)
    assert forms(["ref", "hyp"], "auto") == ["lines", "lines"]
    request = read_request(["ref"], "hyp")
    plain = [text.removeprefix(BOM).replace("\r", "") for text in (ref, hyp)]
    assert list(request.refs) == plain[0].removesuffix("\n").split("\n")
    assert list(request.hyps) == plain[1].removesuffix("\n").split("\n")


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        # Unequal length: named with both counts.
        (
            PLAIN_REF,
            PLAIN_HYP + "Ein Ende.\n",
            "ref:2: key 'Ein' occurs twice; nor are these plain lines, paired by "
            "number: ref has 3, hyp has 4",
        ),
        (PLAIN_REF, PLAIN_HYP + "\n", "ref has 3, hyp has 4"),
        # One table and one plain, of equal length or not.
        (
            "u1 Ein Hund\nu2 Ein Mann\n",
            "Ein Hund\nEin Mann\n",
            "hyp:2: key 'Ein' occurs twice; are these plain lines? --format lines (ref "
            "can be read by keys)",
        ),
        ("Ein Hund\nEin Mann\n", "Ein Hund\nKein Mann\n", "(hyp can be read by keys)"),
        ("Ein Hund\nEin Mann\n", "u1 x\nu2 y\nu3 z\n", "(hyp can be read by keys)"),
        # Both can be tables, and have other keys: either reading may be meant.
        (
            "Ein Hund\nZwei Katzen\n",
            "Ein Hund\nDrei Katzen\n",
            "hyp lacks 1 of 2 (Zwei); ref lacks 1 of 2 (Drei); score the data set that "
            "was decoded, whole; or are these plain lines? --format lines",
        ),
        (
            "u1 a\nu2 b\n",
            "u1 a\n",
            "hyp lacks 1 of 2 (u2); score the data set that was",
        ),
        # Words alone: keys of nothing, or plain lines.
        ("ja\nnein\n", "ja\nnein\n", "has a word; or are these plain lines? --format"),
        ("ja\nnein\n", "nein\njo\n", "or are these plain lines? --format lines"),
        (
            "今日は晴れ\n明日は雨\n",
            "今日は晴\n明日は雨\n",
            "plain lines? --format lines",
        ),
        # Tables with the same mistake in both are no lines.
        ("u1 a\nu1 b\n", "u1 a\nu1 b\n", "ref:2: key 'u1' occurs twice; are these"),
        ("u1 a\nu1 b\nu2 c\n", "u1 a\nu3 b\nu3 c\n", "key 'u1' occurs twice; are"),
        ("a x\nb y\n\n", "b y\na x\n\n", "ref:3: empty line; are these plain lines?"),
        (
            "a-b x\na-b y\n",
            "a-b x\na-b y\n",
            "ref:2: key 'a-b' occurs twice; are these",
        ),
        # What other programs write.
        (
            "a b (s_1)\na c (s_2)\n",
            "a (s_1)\na c (s_2)\n",
            "ref: each line ends in (KEY)",
        ),
        (
            '{"key": "a"}\n{"key": "b"}\n',
            "a b\na c\n",
            "ref: each line begins with a br",
        ),
        # What is neither.
        (PLAIN_REF, b"Ein \xff\nEin x\nDie\n", "hyp: not UTF-8"),
        (
            PLAIN_REF,
            "Ein a\rb\nEin x\nDie\n",
            "hyp:1: control character inside the line",
        ),
        (
            PLAIN_REF,
            "Ein a\0\nEin x\nDie\n",
            "hyp:1: control character inside the line",
        ),
        (PLAIN_REF, "", "hyp: no utterance in it, nothing to score"),
        (BOM, PLAIN_HYP, "ref: no utterance in it, nothing to score"),
        ("\n\n", "\n\n", "ref:1: empty line"),
    ],
)
def test_what_could_be_both_or_neither_is_refused(caplog, ref, hyp, message):
    write(ref=ref, hyp=hyp)
    with pytest.raises(UserError) as caught:
        read_request(["ref"], "hyp")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [r for r in caplog.records if "as plain lines" in r.message]


def test_every_file_counts():
    """More references and a second system: a table among plain files is refused."""
    write(ref=PLAIN_REF, hyp=PLAIN_HYP, keys="u1 a\nu2 b\nu3 c\n", short="Ein\nEin\n")
    assert forms(["ref", "ref", "hyp"], "auto") == ["lines"] * 3
    with pytest.raises(UserError, match=r"\(keys can be read by keys\)"):
        read_request(["ref", "keys"], "hyp")
    with pytest.raises(UserError, match="ref has 3, hyp has 3, short has 2"):
        read_request(["ref"], "hyp", "short")


def test_jsonl_goes_with_tables_alone():
    write(**{"ref.jsonl": '{"key": "a", "text": "x"}\n'}, hyp="a x\n", plain=PLAIN_HYP)
    assert read_request(["ref.jsonl"], "hyp").hyps == ("x",)
    with pytest.raises(
        UserError, match=r"twice; are .* \(ref\.jsonl can be read by ke"
    ):
        read_request(["ref.jsonl"], "plain")


def test_said_by_the_user_nothing_is_guessed():
    write(ref=PLAIN_REF, hyp=PLAIN_HYP, words="ja\nnein\n")
    with pytest.raises(UserError, match="'Ein' occurs twice; are these plain lines"):
        read_request(["ref"], "hyp", form="kaldi")
    assert read_request(["words"], "words", form="lines").refs == ("ja", "nein")


def test_words_that_serve_as_keys_are_mentioned(caplog):
    """``Ein Hund`` and ``Zwei Katzen`` in both files: read as tables, with a note."""
    caplog.set_level(logging.INFO)
    write(ref="Ein Hund\nZwei Katzen\n", hyp="Ein Hund\nZwei Katzen\n")
    assert read_request(["ref"], "hyp").refs == ("Hund", "Katzen")
    assert "ref, hyp: the first word of each line is its key (Ein ...)" in caplog.text
    caplog.clear()
    write(ref="u1 Hund\nu2 Katzen\n", hyp="u2 Hund\nu1 Katzen\n")
    read_request(["ref"], "hyp")
    assert not caplog.records


def test_the_refusal_is_one_line_of_the_command(monkeypatch, capsys):
    write(ref=PLAIN_REF, hyp=PLAIN_HYP + "Ein Ende.\n")
    monkeypatch.setattr(sys, "argv", ["score", "wer", "--ref", "ref", "--hyp", "hyp"])
    with pytest.raises(SystemExit):
        cli.run(score.main)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


words = st.text(st.sampled_from("abcäß東"), min_size=1, max_size=4)
line = st.lists(words, max_size=4).map(" ".join)
ending = st.sampled_from(["\n", "\r\n"])


@settings(max_examples=60)
@given(st.lists(line, min_size=1, max_size=6), ending, st.booleans(), st.booleans())
def test_lines_come_back_whatever_their_ends(
    tmp_path_factory, lines, ending, mark, whole
):
    path = tmp_path_factory.mktemp("lines") / "text"
    content = ending.join(lines) + (ending if whole or not lines[-1] else "")
    path.write_bytes(((BOM if mark else "") + content).encode())
    assert read_lines(path) == lines


def keyed(lines: list[str]) -> dict[str, str] | None:
    """What a table of keys holds, or ``None``: written again, to compare with."""
    table: dict[str, str] = {}
    for text in lines:
        key, _, value = text.partition(" ")
        if not key or key in table:
            return None
        table[key] = value
    return table


@settings(max_examples=200)
@given(st.lists(st.tuples(line, line), min_size=1, max_size=5))
def test_never_read_as_lines_what_can_be_tables(tmp_path_factory, pairs):
    """One rule for any two files: tables, lines that cannot be tables, or refused."""
    folder = tmp_path_factory.mktemp("pair")
    sides = [list(side) for side in zip(*pairs, strict=True)]
    paths = [folder / "ref", folder / "hyp"]
    for path, lines in zip(paths, sides, strict=True):
        path.write_text("".join(f"{text}\n" for text in lines))
    tables = [keyed(lines) for lines in sides]
    try:
        request = read_request(paths[:1], paths[1])
    except UserError:
        ref, hyp = tables
        assert None in tables or ref.keys() != hyp.keys() or not any(ref.values())
        return
    if None in tables:
        assert tables == [None, None]
        assert [request.refs, request.hyps] == [tuple(lines) for lines in sides]
    else:
        assert dict(zip(request.keys, request.refs, strict=True)) == tables[0]
        assert dict(zip(request.keys, request.hyps, strict=True)) == tables[1]

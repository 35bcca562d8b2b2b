"""The command: files it writes, and one clear line for each kind of bad input."""

from __future__ import annotations

import json
import sys

import pytest

from espnet_mtla.bin import cli, score


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``score`` in an empty folder; gives (exit code, output, error output)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["score", *arguments])
        code = 0
        try:
            cli.run(score.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def write(path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path.name


def test_files_and_output(command, tmp_path):
    ref = write(tmp_path / "ref", "a one two", "b drei", "c vier")
    hyp = write(tmp_path / "hyp", "c vier", "b", "a one too")  # any order, b is empty
    code, out, _ = command("wer", "--ref", ref, "--hyp", hyp, "--output_dir", "out/wer")
    assert code == 0
    assert "50.00" in out
    summary = json.loads((tmp_path / "out/wer/score.json").read_text())
    keys = "metric utterances ref_words sub del ins errors wer ci95 sentence_errors"
    assert set(summary) == {*keys.split(), "empty_refs", "whole_set", "ref", "hyp"}
    assert (summary["sub"], summary["del"], summary["ins"]) == (1, 1, 0)
    assert (summary["ref"], summary["hyp"], summary["wer"]) == ("ref", "hyp", 50.0)
    lines = (tmp_path / "out/wer/utterances.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["a", "b", "c"]
    assert sum(json.loads(line)["errors"] for line in lines) == summary["errors"]
    listing = (tmp_path / "out/wer/result.txt").read_text()
    assert "two\n" in listing and "too\n" in listing
    assert len(list((tmp_path / "out/wer").iterdir())) == 3


def test_without_output_dir_nothing_is_written(command, tmp_path):
    ref = write(tmp_path / "ref", "a one")
    code, out, _ = command("cer", "--ref", ref, "--hyp", ref, "--compare", ref)
    assert code == 0
    assert "no difference that this data can show" in out
    assert [path.name for path in tmp_path.iterdir()] == ["ref"]


@pytest.mark.parametrize(
    ("ref", "hyp", "message"),
    [
        (["a x", "b y"], ["a x"], "hyp lacks 1 of 2 (b)"),
        (["a x"], ["a x", "b y"], "ref lacks 1 of 2 (b)"),
        (
            [f"u{i} x" for i in range(5)],
            ["u9 x"],
            "hyp lacks 5 of 5 (u0, u1, u2, ...); ref lacks 1 of 1 (u9)",
        ),
        (
            ["a", "b"],
            ["a x", "b y"],
            "ref: none of 2 references has a word; or are these",
        ),
        ([], ["a x"], "ref: no utterance in it"),
        (["a x"], [], "hyp: no utterance in it"),
        (
            ["a x", "a y"],
            ["a x"],
            "ref:2: key 'a' occurs twice; are these plain",
        ),
        (["a x"], ["a x", "a y"], "'a'"),
        (["a x"], ["a x", ""], "hyp:2: empty line; are these plain lines? --format li"),
    ],
)
def test_bad_texts(command, tmp_path, ref, hyp, message):
    write(tmp_path / "ref", *ref)
    write(tmp_path / "hyp", *hyp)
    code, out, err = command(
        "wer", "--ref", "ref", "--hyp", "hyp", "--output_dir", "out"
    )
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not out
    assert not (tmp_path / "out").exists()


def test_missing_file_is_named(command, tmp_path):
    ref = write(tmp_path / "ref", "a x")
    code, _, err = command("wer", "--ref", ref, "--hyp", "nowhere")
    assert code == 1
    assert "nowhere" in err and err.count("\n") == 1


def test_bytes_that_are_not_utf8(command, tmp_path):
    ref = write(tmp_path / "ref", "a x")
    (tmp_path / "hyp").write_bytes(b"a \xff\n")
    code, _, err = command("wer", "--ref", ref, "--hyp", "hyp")
    assert code == 1
    assert "hyp" in err and err.count("\n") == 1


def test_other_system_must_match_too(command, tmp_path):
    ref = write(tmp_path / "ref", "a x", "b y")
    other = write(tmp_path / "other", "b y")
    code, _, err = command("wer", "--ref", ref, "--hyp", ref, "--compare", other)
    assert code == 1
    assert "other lacks 1 of 2 (a)" in err


def test_usage_errors_exit_with_two(command):
    assert command("blue", "--ref", "r", "--hyp", "h")[0] == 2
    code, _, err = command("wer", "--ref", "r", "--hyp", "h", "--resamples", "0")
    assert code == 2
    assert "at least 1" in err


def test_killed_while_writing_leaves_no_score(command, tmp_path, monkeypatch):
    """score.json is the mark of a complete folder, so the old one goes first."""
    ref = write(tmp_path / "ref", "a x")
    arguments = ("wer", "--ref", ref, "--hyp", ref, "--output_dir", "out")
    assert command(*arguments)[0] == 0

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("espnet_mtla.data.atomic.os.replace", interrupted)
    assert command(*arguments)[0] == 130
    assert not (tmp_path / "out/score.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))

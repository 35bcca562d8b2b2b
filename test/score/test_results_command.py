"""The results command: what it writes, and that bad input stops it before writing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_mtla.bin import cli, results
from espnet_mtla.score import render
from espnet_mtla.score.provenance import provenance
from test.support.scored_experiments import TERMINAL


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``results``; gives (exit code, output, error output)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["results", *map(str, arguments)])
        code = 0
        try:
            cli.run(results.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_command_writes_everything(command, experiments, tmp_path):
    readme = tmp_path / "recipe/README.md"
    readme.parent.mkdir()
    readme.write_text(f"# Top\n{render.BEGIN}\nOUTDATED\n{render.END}\nbottom\n")
    output = tmp_path / "out/RESULTS.md"
    arguments = ("--exp", *experiments, "--output", output, "--readme", readme)
    code, out, err = command(*arguments)
    assert code == 0, err
    assert TERMINAL in out
    assert "# Results" in output.read_text()
    content = json.loads(output.with_suffix(".json").read_text())
    row = content["tables"][0]["rows"][2]
    assert row["attention"] == "mtla_s4"
    assert row["difference"]["difference"] == 10
    assert row["difference"]["verdict"] == "worse"
    assert row["speed"]["wall_seconds"] == 8
    assert content["versions"]["espnet_mtla"]
    text = readme.read_text()
    assert text.startswith(f"# Top\n{render.BEGIN}\nMade on ")
    assert text.endswith(f"{render.END}\nbottom\n")
    assert "### test, decoded with beam10" in text and "png" not in text
    assert "OUTDATED" not in text
    assert command(*arguments)[0] == 0
    assert readme.read_text() == text  # a second run changes nothing


@pytest.mark.parametrize(
    "text", ["none", render.BEGIN, f"{render.END}{render.BEGIN}", render.BEGIN * 2]
)
def test_readme_without_its_markers_stops_before_writing(
    command, experiments, tmp_path, text
):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    output = tmp_path / "out/RESULTS.md"
    code, out, err = command(
        "--exp", *experiments, "--output", output, "--readme", readme
    )
    assert code == 1
    assert f"error: {readme}: needs the line" in err and err.count("\n") == 1
    assert not out and not output.parent.exists()
    assert readme.read_text() == text


def test_command_errors_are_one_line(command, experiments, tmp_path):
    code, _, err = command("--exp", *experiments, "--output", tmp_path / "RESULTS.txt")
    assert (code, err.count("\n")) == (1, 1)
    assert "must end in .md" in err
    (experiments[0] / "decode_beam10/test/efficiency.json").unlink()
    output = tmp_path / "RESULTS.md"
    code, _, err = command("--exp", *experiments, "--output", output)
    assert (code, err.count("\n")) == (1, 1)
    assert "--partial" in err
    assert not output.exists()
    assert command("--exp", *experiments, "--output", output, "--partial")[0] == 0
    assert "stage decode makes it" in output.read_text()


def test_provenance_names_date_and_versions():
    made = provenance()
    assert made.date.count("-") == 2
    assert set(made.versions) == {"espnet_mtla", "torch", "espnet"}
    assert re.match(r"\d+\.\d+", made.versions["torch"])


def test_commit_only_of_a_checkout_that_holds_the_package(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True)

    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr("espnet_mtla.__file__", str(tmp_path / "__init__.py"))
    assert provenance().commit is None  # no checkout at all
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "other things")
    assert provenance().commit is None  # installed inside somebody else's
    git("add", "__init__.py")
    git("commit", "-q", "-m", "ours")
    assert re.fullmatch("[0-9a-f]+", provenance().commit)
    (tmp_path / "__init__.py").write_text("edited = True\n")
    assert re.fullmatch("[0-9a-f]+[+]", provenance().commit)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance().commit is None  # no git

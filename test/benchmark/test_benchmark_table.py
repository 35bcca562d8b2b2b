"""``benchmark all``: its runs are valid, a failing one stops no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_mtla.benchmark.table import RUNS, runs_for
from espnet_mtla.bin import benchmark
from espnet_mtla.errors import UserError

NAMES = [(kind, name) for kind, runs in RUNS.items() for name in runs]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_run_is_one_that_the_command_takes(kind: str, name: str) -> None:
    shared = ["--device", kind, "--output_dir", "results"]
    arguments = runs_for(kind, shared, [name])[name]
    args = benchmark.get_parser().parse_args(arguments)
    assert (args.device, str(args.output_dir)) == (kind, "results")
    assert args.name == f"{kind}_{name}"


def test_files_of_different_runs_never_meet() -> None:
    names = [f"{kind}_{name}" for kind, name in NAMES]
    assert len(set(names)) == len(names)


def test_one_failing_run_is_named_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = []

    def alone(arguments: list[str], seconds: float) -> str | None:
        ran.append((arguments[0], seconds))
        return "exit status 1" if arguments[0] == "train" else None

    monkeypatch.setattr(benchmark, "_run_alone", alone)
    options = ["--device", "cpu", "--output_dir", str(tmp_path), "--run_seconds", "7"]
    with pytest.raises(UserError, match=r"not measured: train .exit status 1.; see"):
        benchmark.main(["all", *options])
    assert ran == [(line.split()[0], 7.0) for line in RUNS["cpu"].values()]


def test_some_runs_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(benchmark, "_run_alone", lambda given, _: ran.append(given[0]))
    benchmark.main(["all", "--device", "cpu", "--only", "kernel"])
    assert ran == ["kernel"]


def test_a_run_is_a_process_with_an_end(capfd: pytest.CaptureFixture) -> None:
    assert benchmark._run_alone(["kernel", "--nothing"], 60) == "exit status 2"
    assert "unrecognized arguments: --nothing" in capfd.readouterr().err
    assert benchmark._run_alone(["kernel"], 0.001) == "stopped after 0 s"

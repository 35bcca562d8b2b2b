"""The benchmark command and its training part: fair turns, a gate, a whole result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from espnet_mtla.attention import MultiheadAttention
from espnet_mtla.benchmark.gate import check_close
from espnet_mtla.benchmark.measure import interleaved, saved_bytes
from espnet_mtla.benchmark.report import BenchmarkReport
from espnet_mtla.bin import benchmark
from espnet_mtla.errors import UserError

TINY = ["train", "--tokens", "8", "12", "--embed_dim", "64", "--num_heads", "2"]
TINY += ["--attention", "mha", "mtla_s2", "--rounds", "3", "--device", "cpu"]


def test_a_run_leaves_table_json_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    benchmark.main([*TINY, "--output_dir", str(tmp_path), "--name", "tiny"])
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "tiny.json").read_text())
    names = [row["attention"] for row in report["rows"] if row["T"] == 12]
    assert names[:3] == ["sdpa mha", "mha", "mtla_s2"]
    assert {"device", "torch", "commit", "load at end"} <= set(report["conditions"])
    assert report["rows"][0]["time ratio"] == report["rows"][0]["kept ratio"] == 1
    assert "gate: " in shown and "mtla_s2" in shown
    assert "| mtla_s2" in (tmp_path / "tiny.md").read_text()
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    benchmark.main(["show", str(tmp_path / "tiny.json")])
    assert "mtla_s2" in capsys.readouterr().out


def test_a_wrong_result_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = MultiheadAttention.attend

    def wrong(self: MultiheadAttention, *given: object) -> torch.Tensor:
        return right(self, *given) * 1.001

    monkeypatch.setattr(MultiheadAttention, "attend", wrong)
    with pytest.raises(UserError, match=r"mha: differs by .* nothing was measured"):
        benchmark.main([*TINY, "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "abacus"], "--device: 'abacus' given"),
        (["--device", "mps"], "--device: 'mps' given"),
        (["--device", "cuda:99"], "--device: cuda:99 given, but torch finds . GPUs"),
        (["--attention", "mha_s2"], "attention: 'mha_s2' given"),
        (["--attention", "mta"], "'mta' given"),
    ],
)
def test_bad_options_are_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        benchmark.main([*TINY, *options])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a\.json: not a result of this command"):
        benchmark.main(["show", str(tmp_path / "a.json")])


def test_cases_take_turns_and_warm_up_is_apart() -> None:
    order = []
    cases = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(cases, torch.device("cpu"), rounds=4, warmup=2)
    assert "".join(order) == "abab" + "abbaabba"
    assert timings["a"].rounds == 4
    assert timings["a"].low <= timings["a"].median <= timings["a"].high


def test_time_that_is_up_ends_the_rounds() -> None:
    cases = {"a": lambda: None}
    timings = interleaved(cases, torch.device("cpu"), rounds=50, max_seconds=0)
    assert timings["a"].rounds == 3


def test_saved_bytes_count_a_storage_once_and_inputs_never() -> None:
    x = torch.ones(10, 10, requires_grad=True)
    assert saved_bytes(lambda: (x.exp() * x).sum(), x) == 400
    assert saved_bytes(lambda: (x * 2).sum(), x) == 0
    assert saved_bytes(lambda: (x.exp() * x.exp()).sum(), x) == 800
    assert saved_bytes(lambda: x.exp().square().sum(), x) == 400  # for both


@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_the_gate_shuts(value: float) -> None:
    with pytest.raises(UserError, match="differs by"):
        check_close("x", torch.tensor([value]), torch.ones(1), 1e-3)


def test_a_report_reads_what_it_wrote(tmp_path: Path) -> None:
    report = BenchmarkReport(
        "train", "T", [{"a": "x", "ms": 1234.5, "b": None}], notes=["n"]
    )
    report.write(tmp_path / "r")
    assert BenchmarkReport.read(tmp_path / "r.json") == report
    assert report.table().splitlines()[-1].split() == ["x", "1234", "-"]

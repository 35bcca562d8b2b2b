"""The report is whole, says why, and fails where the arithmetic is wrong."""

from __future__ import annotations

import sys

import pytest
import torch

from espnet_mtla.bin import doctor
from espnet_mtla.diagnose import kernels, machine, selftest
from espnet_mtla.errors import UserError


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(selftest, "SPEED_PROMPT", 20)
    monkeypatch.setattr(selftest, "SPEED_STEPS", 3)
    monkeypatch.setattr(sys, "argv", ["doctor"])


@pytest.mark.usefixtures("small")
def test_the_report(capsys):
    doctor.main()
    shown = capsys.readouterr().out
    for title in ("Machine", "Packages", "Decode back-ends on", "Correctness"):
        assert f"{title}" in shown
    assert torch.__version__.split("+")[0] in shown
    assert "mtla_s3: training = decoding" in shown and "DIFFERENT" not in shown
    if not torch.cuda.is_available():
        assert "mla, float32: torch\n  not triton: " in shown
    rows = [line.split() for line in shown.splitlines()]
    sizes = {r[0]: float(r[2]) for r in rows if len(r) == 3 and r[0] in selftest.TYPES}
    assert set(sizes) == set(selftest.TYPES)
    assert sizes["mha"] > sizes["mla"] > sizes["mtla_s2"] > sizes["mtla_s4"] > 0


@pytest.mark.usefixtures("small")
def test_wrong_arithmetic_is_an_error(monkeypatch, capsys):
    step = selftest.DecoderOnlyTransformer.step

    def wrong(self, tokens, state):
        return step(self, tokens, state) * (1 + (self.config.attention == "mtla"))

    monkeypatch.setattr(selftest.DecoderOnlyTransformer, "step", wrong)
    with pytest.raises(UserError, match="wrong on this machine: mtla_s2: training"):
        doctor.main()
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_kernel_is_compared_with_the_reference(monkeypatch):
    """A back-end that serves the CPU, and one that lets unwritten entries through."""
    *_, reference = kernels.backends().values()
    attention = (
        selftest.make_decoder(
            "mtla_s2", torch.device("cpu"), vocab_size=5, num_layers=1
        )
        .layers[0]
        .attention
    )

    class Same:
        name = "same"

        def unsupported_reason(self, *_):
            return None

        def attend(self, *args):
            return reference.attend(*args)

    class Leaky(Same):
        name = "leaky"

        def attend(self, q, entries, layout, visible, scale):
            seen = torch.full_like(visible, entries.size(2))
            entries = entries.nan_to_num(0.0)
            return reference.attend(q, entries, layout, seen, scale)

    found = {"same": Same(), "leaky": Leaky(), "torch": reference}
    monkeypatch.setattr(kernels, "backends", lambda: found)
    compared = kernels.compare_backends(
        attention.layout, attention.scale, torch.device("cpu")
    )
    apart = {name: difference for name, difference, _ in compared}
    assert apart["same"] == 0.0 and apart["leaky"] > 1e-2


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(machine, "installed", lambda _: None)
    found = dict(machine.packages())
    assert found["espnet"].startswith("not installed (espnet-mtla[recipes]")
    assert dict(machine.hardware())["python"].startswith("3.")

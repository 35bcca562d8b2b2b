"""The self-check of cached text passes here, and sees a cache that is dropped."""

from __future__ import annotations

import sys

import pytest
import torch

from espnet_mtla.bin import doctor
from espnet_mtla.diagnose import doctor as report
from espnet_mtla.diagnose import generation
from espnet_mtla.errors import UserError

transformers = pytest.importorskip("transformers")


def verdicts() -> dict[str, str]:
    """By the way of decoding."""
    findings = [*generation.cached_is_uncached()]
    assert all(
        found.check == f"transformers {transformers.__version__}: cached = uncached"
        for found in findings
    )
    return {found.compared.partition(",")[0]: found.verdict for found in findings}


def test_cached_text_is_uncached_text_on_this_version() -> None:
    assert verdicts() == {"greedy": "same", "beam 3": "same"}


@pytest.fixture(params=["mask kept", "mask dropped"])
def dropped(request, monkeypatch):
    """Drop an unknown keyword, here the cache, as older forwards did."""
    from espnet_mtla.hf.llama.modeling import LlamaMTLAModel

    forward = LlamaMTLAModel.forward

    def forgetful(self, ids, mask, _position, _cache, *rest, **others):
        if request.param == "mask dropped" and mask is not None:
            mask = mask[:, -ids.size(1) :]
        others.pop("cache_position", None)  # of Transformers 4
        return forward(self, ids, mask, None, None, *rest, **others)

    monkeypatch.setattr(LlamaMTLAModel, "forward", forgetful)
    return request.param


def test_a_dropped_cache_is_seen(dropped: str) -> None:
    found = verdicts()
    assert set(found) == {"greedy", "beam 3"}
    for verdict in found.values():
        assert verdict.startswith("DIFFERENT at stride 1: ")
        if dropped == "mask kept":
            assert "UserError: attention_mask: (" in verdict
        else:
            assert "with a cache, " in verdict and "without" in verdict


@pytest.mark.usefixtures("dropped")
def test_doctor_ends_in_an_error_then(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["doctor"])
    monkeypatch.setattr(report, "_correctness", lambda _: iter(()))
    monkeypatch.setattr(report, "_speed", lambda *_: "")
    with pytest.raises(UserError, match=r"wrong on this machine: transformers "):
        doctor.main()
    assert "DIFFERENT at stride 1" in capsys.readouterr().out


def test_without_transformers_it_is_not_made(monkeypatch) -> None:
    monkeypatch.setattr(generation, "find_spec", lambda _: None)
    (found,) = generation.cached_is_uncached()
    assert found.verdict == "not made" and not found.fails


def test_a_version_that_is_too_old_is_a_finding(monkeypatch) -> None:
    from espnet_mtla.hf import versions

    monkeypatch.setattr(versions.transformers, "__version__", "4.30.2")
    versions.check_transformers.cache_clear()
    try:
        assert all("transformers 4.30.2: 4.57 or" in v for v in verdicts_of_any())
    finally:
        versions.check_transformers.cache_clear()


def verdicts_of_any() -> list[str]:
    return [found.verdict for found in generation.cached_is_uncached()]


def test_the_check_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    generation.tiny_model(2)
    assert torch.equal(torch.rand(3), expected)

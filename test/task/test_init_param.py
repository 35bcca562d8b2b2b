"""What a model starts from when it has not all the parts of the other one."""

from __future__ import annotations

from espnet_mtla.task.checks import without_ctc


def test_a_model_without_ctc_starts_from_the_encoder_alone() -> None:
    specs = ["a/model.pth:encoder:encoder", "a/model.pth:ctc:ctc", "b/ctc.pth"]
    assert without_ctc(specs) == ["a/model.pth:encoder:encoder", "b/ctc.pth"]

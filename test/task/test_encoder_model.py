"""``--encoder_model``: a model begins from all that an encoder model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espnet_mtla.model import checkpoint
from espnet_mtla.task.average import Criterion, average
from test.support import toy_corpus
from test.support.tiny_encoders import make_encoder
from test.support.toy_corpus import Toy

CHANGES = {
    "frontend": "transformers",
    "normalize": "utterance_mvn",
    "encoder": None,
    "encoder_conf": {},
}
WAYS = {
    "learned sum": {"layer": None},
    "trained": {"layer": -1, "finetune": True},
    "adapted": {"layer": -1, "lora": {"rank": 2}},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_frontend_that_was_trained_is_carried_over(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_corpus, "RATE", 16000)
    toy = Toy(tmp_path / "toy")
    folder = make_encoder(tmp_path / "whisper", "whisper")
    frontend = {"model": str(folder), "fs": 16000, **WAYS[way]}
    changes = {**CHANGES, "frontend_conf": frontend}
    toy("--collect_stats", **changes)
    encoder, out = tmp_path / "encoder", tmp_path / "exp"
    toy("--output_dir", encoder, **changes, model_conf={"ctc_weight": 1.0})
    average(encoder, Criterion.parse("valid.cer_ctc.min"), 2)
    toy(
        *("--output_dir", out, "--encoder_model", encoder / "model.pth"),
        **changes,
        freeze_param=["frontend", "ctc"],
        model_conf={"ctc_weight": 0.1},
    )
    average(out, Criterion.parse("valid.acc.max"), 2)
    trained, ours = (checkpoint.load(at / "model.pth") for at in (encoder, out))
    assert {name.split(".")[0] for name in trained} == {"frontend", "ctc"}
    for name, value in trained.items():
        assert torch.equal(ours[name], value), name

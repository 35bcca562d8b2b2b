"""Whisper base, a projector and SmolLM2 with adapters, as one model."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

from espnet_mtla.data.tokens import TokenOptions, tokenise
from espnet_mtla.model.batch import Preprocess, collate
from espnet_mtla.recognise.load import TrainedModel
from espnet_mtla.recognise.options import DecodeOptions
from espnet_mtla.recognise.recogniser import Recognised, Recogniser
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from espnet_mtla.task.asr import ASRTask
from test.support.real_weights import real_weights
from test.support.tiny_encoders import noise

pytestmark = pytest.mark.real_weights
TEXTS = ["hello there", "press one", "the extension is busy", "goodbye"]
SAMPLES = [16000, 9000, 21000, 12345]
ATTENTIONS = {
    "gqa": {},
    "mtla_s2": {"attention": "mtla", "attention_conf": {"down_rate": 2}},
}
DECODE = {"beam_size": 3, "max_length_ratio": -6.0}


def build(folder: Path, attention: str):
    """The model as training builds it, and its options."""
    whisper, smollm2 = real_weights("whisper-base"), real_weights("smollm2-135m")
    tokenise(TEXTS, folder, TokenOptions("hf", hf_tokenizer=smollm2))
    args = Namespace(
        token_list=str(folder / "tokens.txt"),
        token_type="hf",
        bpemodel=str(folder / "tokenizer"),
        non_linguistic_symbols=None,
        task="asr",
        input_size=None,
        init=None,
        frontend="transformers",
        frontend_conf={"model": whisper, "layer": -1},
        specaug=None,
        specaug_conf={},
        normalize=None,
        normalize_conf={},
        encoder=None,
        encoder_conf={},
        projector_conf={"stack": 5},
        decoder="pretrained",
        decoder_conf={"model": smollm2, **ATTENTIONS[attention]},
        ctc_conf={},
        model_conf={
            "ctc_weight": 0.0,
            "template": "<audio> Transcribe the speech:",
        },
        lora={"decoder": {"rank": 4, "targets": ["wq"]}},
        collect_stats=False,
    )
    torch.manual_seed(0)
    return ASRTask.build_model(args), args


def check_step(model, args: Namespace) -> None:
    """A training step: a finite loss, and gradients of projector and adapters alone."""
    prepare, (speech, _) = Preprocess(args), noise(SAMPLES)
    rows = [
        (text, prepare(text, {"speech": row[:count].numpy(), "text": text}))
        for text, row, count in zip(TEXTS, speech, SAMPLES, strict=True)
    ]
    names, batch = collate(rows)
    loss, _, _ = model.train()(**batch, utt_id=names)
    assert torch.isfinite(loss).all()
    loss.backward()
    for name, value in model.named_parameters():
        trains = name.startswith("projector.") or ".lora_" in name
        assert name.startswith(("projector.", "decoder.")), name
        assert value.requires_grad == (value.grad is not None) == trains, name
    # The second matrix of an adapter begins at zero, so the first has no gradient yet.
    moved = {
        n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert any(".lora_B." in name for name in moved)
    assert {"projector.layers.0.weight", "projector.layers.2.weight"} <= moved
    with torch.no_grad():
        for value in model.parameters():
            if value.grad is not None:
                value.sub_(value.grad, alpha=0.01)


def decode(folder: Path, together: bool) -> list[Recognised]:
    options = DecodeOptions(**DECODE)
    trained = TrainedModel.from_folder(folder, torch.device("cpu"), options)
    recogniser = Recogniser(trained, options)
    speech, _ = noise(SAMPLES)
    sounds = [
        Sound(text, row[:count].numpy())
        for text, row, count in zip(TEXTS, speech, SAMPLES, strict=True)
    ]
    if together:
        return list(recogniser(sounds))
    return [result for sound in sounds for result in recogniser([sound])]


def answers(results: list[Recognised]) -> list[list[int]]:
    return [result.nbest[0].tokens for result in results]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_one_step_decoding_packing_and_moving(attention: str, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    model, args = build(exp, attention)
    assert model.decoder.config.attention == attention.partition("_")[0]
    check_step(model, args)
    torch.save(model.state_dict(), exp / "model.pth")
    del model
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    alone, together = decode(exp, together=False), decode(exp, together=True)
    assert answers(alone) == answers(together)
    for one, other in zip(alone, together, strict=True):
        assert one.nbest[0].score == pytest.approx(other.nbest[0].score, abs=1e-3)
    assert all(0 < len(tokens) <= 6 for tokens in answers(alone))
    pack(exp, tmp_path / "packed", DecodeOptions(**DECODE), Card("me/it"))
    shutil.rmtree(exp)
    moved = Path(shutil.move(tmp_path / "packed", tmp_path / "moved"))
    models = str(Path(real_weights("whisper-base")).parent)
    assert models not in (moved / "config.yaml").read_text()
    assert answers(decode(moved, together=True)) == answers(together)

"""Encoders of Transformers in a speech model: saved, moved and packed without them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq
from espnet_mtla.model.build import load_model
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.share.card import Card
from espnet_mtla.share.pack import pack
from test.support.all_tensors import poison
from test.support.tiny_encoders import make_encoder
from test.support.tiny_experiment import make_model
from test.support.tiny_recipes import check_same, noise, tiny

TRAINED = {"frozen": {}, "tuned": {"finetune": True}, "lora": {"lora": {"rank": 2}}}


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("name", ["whisper", "wav2vec2_base", "w2v_bert_rotary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded(name, trained, dtype, tmp_path, monkeypatch) -> None:
    folder = make_encoder(tmp_path / name, name)
    settings = {"model": str(folder), **TRAINED[trained]}
    model = tiny("transformers", frontend_conf=settings)
    if dtype != torch.float32:
        model.to(dtype)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    poison(monkeypatch)
    check_same(MTLAForSpeechSeq2Seq.from_pretrained(moved), model)


def test_saved_into_the_folder_it_was_loaded_from(tmp_path) -> None:
    folder = make_encoder(tmp_path / "whisper", "whisper")
    model = tiny("transformers", frontend_conf={"model": str(folder)})
    model.save_pretrained(tmp_path / "saved")
    loaded = MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "saved")
    check_same(MTLAForSpeechSeq2Seq.from_pretrained(tmp_path / "saved"), model)


@pytest.mark.parametrize("trained", TRAINED)
def test_a_packed_folder_needs_no_other(trained, tmp_path) -> None:
    """It holds each weight of the encoder once, and none of Whisper's decoder."""
    folder = make_encoder(tmp_path / "whisper", "whisper")
    exp = make_model(tmp_path / "exp")
    config = yaml.safe_load((exp / "config.yaml").read_text())
    settings = {"model": str(folder), **TRAINED[trained]}
    config |= {"frontend": "transformers", "frontend_conf": settings}
    config |= {"normalize": "utterance_mvn", "normalize_conf": {}}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    trained_model, _ = load_model(exp / "config.yaml")
    for value in trained_model.frontend.parameters():
        torch.nn.init.uniform_(value, -0.3, 0.3)
    torch.save(trained_model.state_dict(), exp / "model.pth")
    pack(exp, tmp_path / "packed", DecodeOptions(beam_size=2), Card("me/tiny"))
    for path in (exp, folder):
        shutil.rmtree(path)
    moved = Path(shutil.move(tmp_path / "packed", tmp_path / "elsewhere"))
    files = {path.name for path in (moved / "upstream").iterdir()}
    expected_files = {"config.json", "preprocessor_config.json"}
    if trained != "tuned":
        expected_files.add("model.safetensors")
        encoder = load_file(moved / "upstream" / "model.safetensors")
        assert "conv1.weight" in encoder
        assert not any("decoder" in name or "proj_out" in name for name in encoder)
    assert files == expected_files
    names = {n for n in load_file(moved / "model.safetensors") if "frontend" in n}
    expected = {
        "frozen": lambda _: False,
        "tuned": lambda name: name.startswith("frontend.encoder."),
        "lora": lambda name: ".lora_" in name,
    }[trained]
    assert all(map(expected, names - {"frontend.weights"}))
    assert any(map(expected, names)) == (trained != "frozen")
    loaded, _ = load_model(moved / "config.yaml", moved / "model.safetensors")
    lengths = torch.tensor([20000, 15000])
    with torch.no_grad():
        wanted = trained_model.eval().encode(noise(samples=20000), lengths)[0]
        found = loaded.eval().encode(noise(samples=20000), lengths)[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    model = MTLAForSpeechSeq2Seq.from_packed(moved)
    torch.testing.assert_close(
        model.eval().speech.encode(noise(samples=20000), lengths)[0], wanted
    )


def test_adapters_without_their_setting_and_the_other_way_round(tmp_path) -> None:
    folder = make_encoder(tmp_path / "whisper", "whisper")
    exp = make_model(tmp_path / "exp")
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config |= {"normalize": "utterance_mvn", "normalize_conf": {}}
    for trained, other in (("lora", "frozen"), ("frozen", "lora")):
        for name in (trained, other):
            settings = {"model": str(folder), **TRAINED[name]}
            config |= {"frontend": "transformers", "frontend_conf": settings}
            (exp / "config.yaml").write_text(yaml.safe_dump(config))
            if name == trained:
                model, _ = load_model(exp / "config.yaml")
                torch.save(model.state_dict(), exp / "model.pth")
        with pytest.raises(
            UserError, match=r"model\.pth: (does not fit .*lora|has unmerged adapters)"
        ) as caught:
            load_model(exp / "config.yaml", exp / "model.pth")
        assert "\n" not in str(caught.value)

"""Encoders by their names on the hub."""

from __future__ import annotations

import pytest

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.checkpoint import find_folder, needed_files
from espnet_mtla.frontend.encoder_folder import encoder_digest
from test.support.stand_in_hub import serve
from test.support.tiny_encoders import make_encoder

SAFE = "model.safetensors"


def test_from_the_hub(tmp_path, monkeypatch) -> None:
    """Only the needed files are downloaded, and only once."""
    original = make_encoder(tmp_path / "original", "whisper")
    with serve(monkeypatch, tmp_path / "cache") as hub:
        files = {p.name: p.read_bytes() for p in original.iterdir()}
        others = {"pytorch_model.bin": b"", "tf_model.h5": b"", "tokenizer.json": b""}
        hub.files["openai/tiny"] = {**files, **others}
        folder = find_folder("openai/tiny")
        assert {p.name for p in folder.iterdir()} == {
            *("config.json", "preprocessor_config.json", SAFE)
        }
        assert encoder_digest("openai/tiny") == encoder_digest(str(original))
        before = len(hub.requests)
        assert find_folder("openai/tiny") == folder
        assert len(hub.requests) == before
        with pytest.raises(UserError, match="no such model on the hub") as caught:
            find_folder("openai/none")
        assert "hf download openai/none" in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_folder("openai/tiny") == folder
    with pytest.raises(
        UserError, match=r"^model: openai/other: .*cannot be reached.*`hf download"
    ) as caught:
        find_folder("openai/other")
    assert "\n" not in str(caught.value)


def test_models_of_which_only_a_pickle_exists() -> None:
    """As those of WavLM and HuBERT on the hub; it is read as tensors alone."""
    names = {
        "config.json",
        "pytorch_model.bin",
        "preprocessor_config.json",
        "x.msgpack",
    }
    assert needed_files(names) == sorted(names - {"x.msgpack"})

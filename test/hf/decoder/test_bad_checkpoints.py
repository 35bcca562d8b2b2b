"""Checkpoints that cannot be decoders: one line that says what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.source import load_config
from espnet_mtla.hf.decoder.settings import PretrainedDecoder
from test.support.tiny_checkpoints import VOCABULARY, save_tiny, scaled


def refused(folder: Path | str, message: str, **conf: object) -> None:
    """Check for one line that begins with the folder's name."""
    settings = PretrainedDecoder(str(folder), **conf)
    with pytest.raises(UserError) as caught:
        settings.load(VOCABULARY)
    assert re.search(message, str(caught.value)), caught.value
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, r"config\.json: no such file")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, "no model.safetensors in this folder")


def test_a_pickle(tmp_path: Path) -> None:
    model = save_tiny(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    refused(tmp_path, r"pytorch_model\.bin: a pickle, which can run code")


@pytest.mark.parametrize("alone", [True, False])
def test_unmerged_adapters(alone: bool, tmp_path: Path) -> None:
    """Transformers would put them into the model, where their layers have other names.

    Of adapters alone there is no config.json.
    """
    peft = pytest.importorskip("peft")
    model = save_tiny(tmp_path, "llama")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, settings).save_pretrained(tmp_path)
    if alone:
        (tmp_path / "config.json").unlink()
        (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, r"has unmerged adapters of PEFT \(adapter_config\.json\); merge")
    with pytest.raises(UserError, match=r"unmerged adapters of PEFT"):
        load_config(str(tmp_path))


def test_code_in_the_folder(tmp_path: Path) -> None:
    """It is neither run nor asked about."""
    save_tiny(tmp_path, "llama")
    written = tmp_path / "written"
    code = f"open({str(written)!r}, 'w')\n"
    (tmp_path / "code.py").write_text(code)
    classes = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    edit(tmp_path, model_type="unheard-of", auto_map=classes)
    refused(tmp_path, "not a checkpoint of Transformers")
    edit(tmp_path, model_type="llama")
    PretrainedDecoder(str(tmp_path)).load(VOCABULARY)
    assert not written.exists()


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])
    refused(tmp_path, r"model\.safetensors: cut off")


def edit(folder: Path, **settings: object) -> None:
    """Change the configuration of a checkpoint."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_weight_of_another_shape_or_none(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    edit(tmp_path, intermediate_size=64)
    refused(tmp_path, r"mismatched weights: model\.layers\.0\.mlp")
    edit(tmp_path, intermediate_size=48)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    refused(tmp_path, r"missing weights: model\.norm\.weight")


def test_an_encoder(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, WhisperConfig

    for config in (WhisperConfig(), Wav2Vec2Config()):
        config.save_pretrained(tmp_path)
        refused(
            tmp_path,
            f"model_type '{config.model_type}' can't be used in a decoder; llama, "
            "mistral, qwen2, qwen3, llama-mtla can",
        )


def test_another_architecture(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    refused(tmp_path, "model_type 'gpt2' can't be used in a decoder")
    edit(tmp_path, model_type="unheard-of")
    refused(tmp_path, "not a checkpoint of Transformers .*unheard-of")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"hidden_act": "gelu"},
            "hidden_act 'gelu' can't be used in a decoder; silu can",
        ),
        (
            scaled("dynamic"),
            "rope_type 'dynamic' can't be used in a decoder; default, linear, llama3, "
            "yarn can",
        ),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "quantised weights can't be used in a decoder",
        ),
    ],
    ids=["activation", "rotary", "quantised"],
)
def test_an_unsupported_feature(settings, message: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    edit(tmp_path, **settings)
    refused(tmp_path, message)


def test_a_window_smaller_than_the_positions(tmp_path: Path) -> None:
    save_tiny(tmp_path, "mistral", sliding_window=64)
    refused(
        tmp_path,
        "sliding_window=64 can't be used in a decoder: .* all of 128 positions",
    )
    save_tiny(tmp_path, "mistral", sliding_window=128)
    PretrainedDecoder(str(tmp_path)).load(VOCABULARY)
    save_tiny(tmp_path, "qwen2", sliding_window=64, use_sliding_window=True)
    refused(tmp_path, "sliding_window=64 can't be used in a decoder")
    save_tiny(tmp_path, "qwen2", sliding_window=64, use_sliding_window=False)
    PretrainedDecoder(str(tmp_path)).load(VOCABULARY)


def test_a_name_that_is_nowhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(tmp_path / "none", "not a checkpoint of Transformers")


def test_what_conversion_does_not_support(tmp_path: Path) -> None:
    save_tiny(tmp_path, "qwen3")
    refused(tmp_path, "'qwen3' can't be converted; llama, mistral", attention="mla")
    save_tiny(tmp_path, "llama")
    sizes = {"qk_rope_head_dim": 18}
    settings = PretrainedDecoder(str(tmp_path), "mla", sizes)
    with pytest.raises(UserError, match=r"qk_rope_head_dim: 18 given, .* up to 16"):
        settings.load(VOCABULARY)

"""Decoders with latent attention: converted on loading, or by ``convert`` before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from espnet_mtla.errors import UserError
from espnet_mtla.hf.convert.build import Target, convert
from espnet_mtla.hf.decoder.settings import BLOCK, PretrainedDecoder
from test.hf.decoder.test_weights import check_equal, load, tokens_for
from test.support.real_weights import real_weights
from test.support.tiny_checkpoints import CHECKPOINTS, save_tiny
from test.support.tiny_llama import tiny

LOSSLESS = {"kv_lora_rank": 32, "qk_rope_head_dim": 16}
"""For two key-value heads of width 8: all components rotary."""


def converted(model: PreTrainedModel, *target: object) -> PreTrainedModel:
    return convert(model, Target(*target))[0]


@pytest.mark.parametrize("name", ["llama", "llama_biased", "llama_yarn", "qwen2"])
def test_lossless_mla_computes_what_the_checkpoint_does(
    name: str, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path, name)
    decoder = load(tmp_path, model, attention="mla", attention_conf=LOSSLESS)
    assert decoder.config.attention == "mla"
    check_equal(decoder, model, tokens_for(model, 2, 30))


@pytest.mark.parametrize("name", ["llama", "llama_yarn", "llama_tied", "qwen2"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conversion_on_loading_is_that_of_the_command(
    name: str, stride: int, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path, name)
    attention = "mtla" if stride > 1 else "mla"
    conf = {"kv_lora_rank": 12, "qk_rope_head_dim": 6}
    given = {**conf, "down_rate": stride} if stride > 1 else conf
    decoder = load(tmp_path, model, attention=attention, attention_conf=given)
    expected = converted(model, attention, stride, 12, 6)
    check_equal(decoder, expected, tokens_for(model, 2, 30))
    expected.save_pretrained(tmp_path / "converted")
    check_equal(load(tmp_path / "converted", model), expected, tokens_for(model, 2, 30))


@pytest.mark.parametrize("layout", ["halves", "pairs"])
@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("rank", [0, 10])
def test_a_llama_trained_with_mtla_is_loaded_as_it_is(
    layout: str, norm: str, rank: int, tmp_path: Path
) -> None:
    model = tiny(
        3, dtype=torch.float32, rope_layout=layout, kv_norm=norm, q_lora_rank=rank
    )
    model.save_pretrained(tmp_path)
    decoder = load(tmp_path, model)
    assert decoder.config.attention_conf["down_rate"] == 3
    check_equal(decoder, model, tokens_for(model, 2, 30))
    same = {"attention": "mtla", "attention_conf": {"down_rate": 3}}
    check_equal(load(tmp_path, model, **same), model, tokens_for(model, 2, 30))
    other = {"attention": "mtla", "attention_conf": {"down_rate": 2}}
    with pytest.raises(UserError, match=r"down_rate: 2 given, 3 \(of .*\) is needed"):
        load(tmp_path, model, **other)
    with pytest.raises(UserError, match=r"attention: mla given, .* has mtla; leave"):
        load(tmp_path, model, attention="mla")


def test_default_sizes_are_half_of_keys_and_values(tmp_path: Path) -> None:
    """And a rotary key of one head; two key-value heads of width 8."""
    model = save_tiny(tmp_path, "llama")
    settings = PretrainedDecoder(str(tmp_path), attention="mtla")
    decoder = settings.load(model.config.vocab_size)
    conf = decoder.config.attention_conf
    assert (conf["kv_lora_rank"], conf["qk_rope_head_dim"]) == (16, 8)
    assert conf["down_rate"] == 2
    sizes = settings.sizes()
    for key, value in sizes.pop("attention_conf").items():
        assert conf[key] == value, key
    assert sizes.items() <= vars(decoder.config).items()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_sizes_are_known_without_the_weights(name: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()
    sizes = PretrainedDecoder(str(tmp_path)).sizes()
    conf = sizes["attention_conf"]
    assert sizes["num_layers"] == model.config.num_hidden_layers
    assert conf["num_kv_heads"] == model.config.num_key_value_heads


def test_a_text_is_measured_for_the_conversion(tmp_path: Path) -> None:
    """Its latents differ from those of independent activations."""
    model = save_tiny(tmp_path, "llama")
    save_word_tokeniser(tmp_path)
    text = tmp_path / "text.txt"
    torch.manual_seed(5)
    words = torch.randint(0, 50, (3 * BLOCK,)).tolist()
    text.write_text(" ".join(f"w{word}" for word in words))
    conf = {"attention": "mla", "attention_conf": {"kv_lora_rank": 8}}
    ours = load(tmp_path, model, **conf, calibration=str(text))
    blocks = torch.tensor(words[: 2 * BLOCK]).view(2, BLOCK)
    expected, _ = convert(model, Target("mla", 1, 8, 8), blocks)
    check_equal(ours, expected, tokens_for(model, 2, 30))
    text.write_text("w1 w2")
    with pytest.raises(UserError, match=r"decoder_conf\.calibration: .* 2 tokens, two"):
        load(tmp_path, model, **conf, calibration=str(text))
    with pytest.raises(UserError, match=r"decoder_conf\.calibration: .*none\.txt"):
        load(tmp_path, model, **conf, calibration=str(tmp_path / "none.txt"))


def save_word_tokeniser(folder: Path) -> None:
    """A tokeniser whose word ``wN`` has the id N."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({f"w{n}": n for n in range(50)}, unk_token="w0")
    tokeniser = Tokenizer(words)
    tokeniser.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokeniser).save_pretrained(folder)


@pytest.mark.real_weights
def test_real_weights_without_loss() -> None:
    from transformers import AutoModelForCausalLM

    folder = real_weights("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    sizes = {"kv_lora_rank": 192, "qk_rope_head_dim": 192}
    decoder = load(folder, model, attention="mla", attention_conf=sizes)
    tokens = tokens_for(model, 1, 60)
    with torch.no_grad():
        expected = model(tokens).logits
        none = torch.tensor([0])
        got = decoder(decoder.embed(tokens[:, :0]), none, tokens)
    largest = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * largest)

"""A checkpoint that the reference wrote loads here, and gives the same logits.

The reference's code does not run on today's Transformers as it is: its layers expect
tuples, and its rotary width is taken from ``head_dim``. Both are put right from
outside. Its padded batches and its beams are wrong, so that neither is compared.
"""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

from espnet_mtla.hf import LlamaMTLAForCausalLM
from test.support.tiny_llama import SIZES, tokens

# Keywords of the reference's own layers are older than Transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.past_key_value. is deprecated")

# What the reference's rotary width needs: qk_nope_head_dim = hidden size / heads.
REFERENCE_SIZES = {**SIZES, "qk_nope_head_dim": 8, "initializer_range": 0.2}


@pytest.fixture(scope="module")
def reference():
    """Return the public package's Transformers classes without registering them."""
    patch = pytest.MonkeyPatch()
    for place in (AutoConfig, AutoModelForCausalLM, TOKENIZER_MAPPING):
        patch.setattr(place, "register", lambda *_, **__: None)
    import mtla.mtla_hf
    from mtla.mtla_hf.modeling_mtla import LlamaMTLADecoderLayer

    forward = LlamaMTLADecoderLayer.forward
    patch.setattr(LlamaMTLADecoderLayer, "forward", lambda *a, **k: (forward(*a, **k),))
    yield mtla.mtla_hf
    patch.undo()


def make(reference, **settings):
    torch.manual_seed(5)
    config = reference.LlamaMTLAConfig(**{**REFERENCE_SIZES, **settings})
    if transformers.__version__ >= "5":  # which takes it for the rotary width
        config.head_dim = config.qk_rope_head_dim
    model = reference.LlamaMTLAForCausalLM(config).eval()
    with torch.no_grad():  # norms and biases that are not 1 and 0
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("q_lora_rank", [0, 10])
def test_checkpoints_of_the_reference_load(
    reference, tmp_path, stride: int, q_lora_rank: int
) -> None:
    theirs = make(reference, down_rate=stride, q_lora_rank=q_lora_rank)
    theirs.save_pretrained(tmp_path)
    ours = LlamaMTLAForCausalLM.from_pretrained(tmp_path).eval()
    batch = tokens(2, 11)
    with torch.no_grad():
        expected = theirs(batch, use_cache=False).logits
        torch.testing.assert_close(ours(batch).logits, expected, rtol=0, atol=1e-5)


def test_checkpoints_of_ours_load_into_the_reference(reference, tmp_path) -> None:
    theirs = make(reference)
    theirs.save_pretrained(tmp_path / "a")
    ours = LlamaMTLAForCausalLM.from_pretrained(tmp_path / "a").eval()
    ours.save_pretrained(tmp_path / "b")
    again = reference.LlamaMTLAForCausalLM.from_pretrained(tmp_path / "b").eval()
    batch = tokens(1, 9)
    with torch.no_grad():
        a, b = again(batch, use_cache=False).logits, ours(batch).logits
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_references_greedy_decoding_is_ours(reference, tmp_path) -> None:
    theirs = make(reference)
    theirs.save_pretrained(tmp_path)
    ours = LlamaMTLAForCausalLM.from_pretrained(tmp_path).eval()
    batch = tokens(1, 6)
    row = batch
    with torch.no_grad():
        for _ in range(8):
            new = theirs(row, use_cache=False).logits[:, -1:].argmax(-1)
            row = torch.cat((row, new), dim=1)
    got = ours.generate(batch, do_sample=False, max_new_tokens=8, use_cache=True)
    assert torch.equal(got, row)


def test_every_setting_of_the_reference_is_kept(reference, tmp_path) -> None:
    theirs = make(reference, down_rate=3, q_lora_rank=10)
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    config = AutoConfig.from_pretrained(tmp_path)
    names = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim")
    for name in (*names, "v_head_dim", "down_rate", "recompute_prompt_attn"):
        assert getattr(config, name) == saved[name]
    assert config.model_type == saved["model_type"] == "llama-mtla"

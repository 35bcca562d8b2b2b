"""Tiny models for the tests of hf: weights that do not depend on the order of tests."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import ModelOutput

from espnet_mtla.bin import convert
from espnet_mtla.hf import LlamaMTLAConfig, LlamaMTLAForCausalLM, TemporalLatentCache
from espnet_mtla.hf.versions import CACHE_NAME

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def tiny(
    stride: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64, **settings
) -> LlamaMTLAForCausalLM:
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = LlamaMTLAConfig(**{**SIZES, "down_rate": stride, **settings})
    return LlamaMTLAForCausalLM(config).to(dtype).eval()


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """Random tokens ``(rows, length)``, none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (rows, length), generator=generator)


def cache_of(output: ModelOutput) -> TemporalLatentCache:
    """The cache in an output, under the installed Transformers' name for it."""
    return output[CACHE_NAME]


def left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A batch and its mask from rows of any lengths."""
    longest = max(map(len, rows))
    batch = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for index, row in enumerate(rows):
        batch[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return batch, mask


def run_convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The command, with these words behind it."""
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    convert.main()


LLAMA_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama(kind=LlamaForCausalLM, config=LlamaConfig, **settings):
    """A random model in float64, angles too (Transformers' are float32 always)."""
    torch.manual_seed(0)
    sizes = {**LLAMA_SIZES, "vocab_size": 50, "initializer_range": 0.3}
    model = kind(config(**{**sizes, **settings})).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    rotary = model.model.rotary_emb

    def angles(_, position_ids):
        angle = position_ids[..., None].double() * rotary.inv_freq
        angle = torch.cat((angle, angle), dim=-1)
        scale = rotary.attention_scaling
        return angle.cos() * scale, angle.sin() * scale

    rotary.forward = angles
    return model

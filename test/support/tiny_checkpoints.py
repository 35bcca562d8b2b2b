"""Language models of Transformers with few random weights, saved as checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from espnet_mtla.hf.versions import TRANSFORMERS_4

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def scaled(rope_type: str, **settings: float) -> dict[str, object]:
    """Rotary settings under the name that the installed Transformers has for them."""
    settings = {"rope_type": rope_type, "factor": 4.0, **settings}
    if TRANSFORMERS_4:
        return {"rope_scaling": settings}
    return {"rope_parameters": {"rope_theta": 10000.0, **settings}}


LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"original_max_position_embeddings": 32}
LLAMA, QWEN3 = (LlamaForCausalLM, LlamaConfig), (Qwen3ForCausalLM, Qwen3Config)
MISTRAL = (MistralForCausalLM, MistralConfig)
CHECKPOINTS = {
    "llama": (*LLAMA, {}),
    "llama_mha": (*LLAMA, {"num_key_value_heads": 4}),
    "llama_mqa": (*LLAMA, {"num_key_value_heads": 1}),
    "llama_biased": (*LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "llama_tied": (*LLAMA, {"tie_word_embeddings": True, "rope_theta": 1e5}),
    "llama_linear": (*LLAMA, scaled("linear")),
    "llama_llama3": (*LLAMA, scaled("llama3", **LLAMA3)),
    "llama_yarn": (*LLAMA, scaled("yarn", **YARN)),
    "mistral": (*MISTRAL, {"head_dim": 16, "sliding_window": None}),
    "mistral_all_in_window": (*MISTRAL, {"sliding_window": 4096}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (*QWEN3, {"head_dim": 12}),
    "qwen3_yarn": (*QWEN3, {"head_dim": 12, **scaled("yarn", **YARN)}),
}
"""By name: class of the model, of its configuration, and settings beside SIZES."""


def tiny_model(name: str, **settings: object) -> PreTrainedModel:
    """Return a model with random weights, also of norms and biases."""
    model_class, config_class, own = CHECKPOINTS[name]
    torch.manual_seed(0)
    model = model_class(config_class(**{**SIZES, **own, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def save_tiny(folder: Path, name: str, **settings: object) -> PreTrainedModel:
    """Save :func:`tiny_model` as a checkpoint, and return it."""
    model = tiny_model(name, **settings)
    model.save_pretrained(folder)
    return model

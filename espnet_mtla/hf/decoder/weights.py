"""The settings and weights of a Llama-style model under the decoder's names.

Weights are renamed, and rows of rotary projections are reordered: Transformers rotates
components i and i + d / 2 of a head as a pair, the decoder 2i and 2i + 1. Queries and
keys are reordered alike, so scores do not change. A factor by which rotation scales
queries and keys (rope type yarn) goes into the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from espnet_mtla.attention.config import Frequencies, TemporalLatentConfig
from espnet_mtla.attention.registry import attention_settings
from espnet_mtla.hf.llama.attention import LlamaMTLAAttention

# Transformers' names, ours. The first that fits counts.
MODEL = (
    ("model.embed_tokens.", "embedding."),
    ("model.norm.", "norm."),
    ("lm_head.", "output."),
)
LAYER = (
    ("input_layernorm.", "attention_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("mlp.gate_proj.", "ffn.gate."),
    ("mlp.up_proj.", "ffn.up."),
    ("mlp.down_proj.", "ffn.down."),
    *((f"self_attn.{x}_proj.", f"attention.w{x}.") for x in "qkvo"),
    ("self_attn.", "attention."),  # norms, and latent attention, have our names
)


def decoder_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return the settings of a decoder that computes what ``model`` computes.

    They are fields of :class:`espnet_mtla.decoder.DecoderConfig`. Of a model on the
    meta device, rotary frequencies are left out.
    """
    config, layer = model.config, model.model.layers[0]
    attention, settings = attention_of(model)
    ends = model.get_output_embeddings(), model.get_input_embeddings()
    return {
        "vocab_size": ends[1].num_embeddings,
        "embed_dim": config.hidden_size,
        "num_layers": len(model.model.layers),
        "num_heads": config.num_attention_heads,
        "ffn_dim": config.intermediate_size,
        "attention": attention,
        "attention_conf": settings,
        "tie_embeddings": bool(config.tie_word_embeddings),
        "norm": "rmsnorm",
        "norm_eps": config.rms_norm_eps,
        "feed_forward": "swiglu",
        "ffn_bias": layer.mlp.gate_proj.bias is not None,
        "scale_embedding": False,
    }


def attention_of(model: PreTrainedModel) -> tuple[str, dict[str, Any]]:
    """Return the name of a model's attention type, and its ``attention_conf``."""
    attention = model.model.layers[0].self_attn
    if isinstance(attention, LlamaMTLAAttention):
        name = "mla" if attention.hypernet_down is None else "mtla"
        settings = asdict(attention.settings)
        settings["rope_frequencies"] = attention.rope_frequencies
        return name, {key: settings[key] for key in attention_settings(name)}
    head = attention.head_dim
    heads = attention.q_proj.out_features // head
    groups = attention.k_proj.out_features // head
    name = {heads: "mha", 1: "mqa"}.get(groups, "gqa")
    settings = {
        "bias": attention.q_proj.bias is not None,
        "output_bias": attention.o_proj.bias is not None,
        "num_kv_heads": groups,
        "head_dim": head,
        "rope_frequencies": _frequencies(model),
        "qk_norm": hasattr(attention, "q_norm"),
    }
    if settings["qk_norm"]:
        settings["qk_norm_eps"] = attention.q_norm.variance_epsilon
    return name, settings


def _frequencies(model: PreTrainedModel) -> Frequencies:
    """Return the rotary frequencies as Transformers computed them, in radians a token.

    Computed again from the base they could differ in the last bit, and angles of far
    positions by more.
    """
    frequencies = model.model.rotary_emb.inv_freq
    return None if frequencies.is_meta else tuple(frequencies.tolist())


def decoder_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's weights as a state dict of the decoder."""
    state = {_our_name(key): value for key, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state["output.weight"] = state["embedding.weight"]
    attention = model.model.layers[0].self_attn
    if isinstance(attention, LlamaMTLAAttention):
        turned = _latent_rows(attention)
    else:
        turned = _head_rows(model)
    for key, value in state.items():
        layer = re.match(r"layers\.\d+\.attention\.(\w+)\.", key)
        if layer is not None and layer[1] in turned:
            state[key] = to_pairs(value, *turned[layer[1]])
    return state


def _our_name(key: str) -> str:
    layer = re.match(r"model\.(layers\.\d+\.)(.*)", key)
    start, rest = layer.groups() if layer else ("", key)
    for theirs, ours in LAYER if layer else MODEL:
        if rest.startswith(theirs):
            return start + ours + rest[len(theirs) :]
    return key  # unknown: load_state_dict refuses it


Rows = Mapping[str, tuple[int, int, float]]
"""By module: rows of a head, how many of them (the last) are rotary, their factor."""


def _head_rows(model: PreTrainedModel) -> Rows:
    """Return the rotary rows of MHA and GQA."""
    head = model.model.layers[0].self_attn.head_dim
    scale = float(model.model.rotary_emb.attention_scaling)
    names = ("q_norm", "k_norm", "wq", "wk")
    normed = hasattr(model.model.layers[0].self_attn, "q_norm")
    # A norm undoes a factor before it, so the factor goes into the norm.
    scales = (scale, scale, 1.0, 1.0) if normed else (1.0, 1.0, scale, scale)
    return {n: (head, head, s) for n, s in zip(names, scales, strict=True)}


def _latent_rows(attention: LlamaMTLAAttention) -> Rows:
    """Return the rotary rows of MLA and MTLA; none if these are pairs already."""
    settings: TemporalLatentConfig = attention.settings
    rotary, scale = settings.qk_rope_head_dim, float(attention.rope_scale)
    query, entry = settings.qk_head_dim, settings.kv_lora_rank + rotary
    rows = {name: (query, rotary, scale) for name in ("wq", "wq_b")}
    rows["wkv_a"] = (entry, rotary, scale)
    return rows if attention.halves else {}


def to_pairs(rows: Tensor, width: int, rotary: int, scale: float = 1.0) -> Tensor:
    """Reorder rotary rows from halves (i, i + d / 2) to pairs (2i, 2i + 1).

    >>> to_pairs(torch.tensor([9, 0, 1, 2, 3]), width=5, rotary=4)
    tensor([9, 0, 2, 1, 3])

    Args:
        rows: weight or bias of a projection, ``(heads * width, ...)``.
        width: rows of a head.
        rotary: the last rows of a head, which are rotary.
        scale: factor of the rotary rows.
    """
    heads = rows.unflatten(0, (-1, width))
    rest, turned = heads.split((width - rotary, rotary), dim=1)
    turned = turned.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    if scale != 1:
        turned = turned * scale
    return torch.cat((rest, turned), dim=1).flatten(0, 1)

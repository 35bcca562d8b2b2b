"""Small attention modules of every type, for the tests of attention and decoder."""

from __future__ import annotations

import torch

from espnet_mtla.attention import CausalAttention, build_attention

LATENT = {
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
CONVERTED = {"kv_norm": "none", "rope_frequencies": [0.7, 0.04]}
# id: (name, attention_conf)
TYPES: dict[str, tuple[str, dict[str, object]]] = {
    "mha": ("mha", {}),
    "gqa": ("gqa", {}),
    "mqa": ("mqa", {}),
    "mla": ("mla", LATENT),
    "mla_q_lora": ("mla", {**LATENT, "q_lora_rank": 10}),
    **{f"mtla_s{s}": ("mtla", {**LATENT, "down_rate": s}) for s in (1, 2, 3, 4)},
    # Windows shorter and longer than a chunk.
    **{
        f"mtla_s{s}_w{w}": ("mtla", {**LATENT, "down_rate": s, "raw_window": w})
        for s, w in ((1, 3), (2, 4), (4, 5))
    },
    **{
        f"mtla_s{s}_w{w}_phase": (
            "mtla",
            {**LATENT, "down_rate": s, "raw_window": w, "phase": True},
        )
        for s, w in ((3, 0), (2, 3))
    },
    "mtla_s3_q_lora": ("mtla", {**LATENT, "down_rate": 3, "q_lora_rank": 10}),
    # As Qwen2 and Qwen3 have it: biases without one of the output, heads of another
    # width, normalised queries and keys, frequencies that no base gives.
    "gqa_llama": (
        "gqa",
        {
            **{"bias": True, "output_bias": False, "qk_norm": True},
            **{"head_dim": 6, "rope_frequencies": [0.9, 0.31, 0.002]},
        },
    ),
    **{
        f"{name}_converted": (name, {**LATENT, **CONVERTED, **stride})
        for name, stride in (("mla", {}), ("mtla", {"down_rate": 2}))
    },
}
WIDTH, HEADS = 32, 4


def make(kind: str, dtype: torch.dtype = torch.float64) -> CausalAttention:
    """The attention of layer 1, with weights that do not depend on the order of tests.

    With ``phase`` the chunks of that layer are shifted.
    """
    torch.manual_seed(7)
    name, conf = TYPES[kind]
    return build_attention(name, WIDTH, HEADS, conf=conf, layer=1).to(dtype).eval()


def stride_of(kind: str) -> int:
    """The temporal stride of a type."""
    return TYPES[kind][1].get("down_rate", 1)

"""Sizes of the speech models in these tests."""

from __future__ import annotations

TOKENS = ["<blank>", "<unk>", "a", "b", "c", "d", "<sos/eos>"]
MTLA = {
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "down_rate": 2,
}
SIZES = {"output_size": 8, "attention_heads": 2, "linear_units": 12, "num_blocks": 2}
ENCODERS = {
    "none": {},
    "transformer": SIZES,
    "conformer": {**SIZES, "macaron_style": True, "cnn_module_kernel": 3},
    "e_branchformer": {
        **{k: v for k, v in SIZES.items() if k != "linear_units"},
        "linear_units": 16,
        "cgmlp_linear_units": 16,
        "cgmlp_conv_kernel": 3,
        "merge_conv_kernel": 3,
        "use_ffn": True,
        "macaron_ffn": True,
    },
}

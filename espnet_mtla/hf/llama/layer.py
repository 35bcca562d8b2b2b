"""One layer of a Llama with MTLA: attention and feed-forward, each behind a norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from espnet_mtla.hf.llama.attention import LlamaMTLAAttention, PassInputs
from espnet_mtla.hf.llama.configuration import LlamaMTLAConfig


class LlamaMTLADecoderLayer(GradientCheckpointingLayer):
    """Llama's layer with another attention; its modules have Llama's names."""

    if TYPE_CHECKING:
        self_attn: LlamaMTLAAttention

    def __init__(self, config: LlamaMTLAConfig, layer_idx: int) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = LlamaMTLAAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(
            config.hidden_size, config.rms_norm_eps
        )

    def forward(self, hidden_states: Tensor, inputs: PassInputs) -> Tensor:
        """Run one layer on packed rows ``(N, T, D)``."""
        x = hidden_states
        x = x + self.self_attn(self.input_layernorm(x), inputs)
        return x + self.mlp(self.post_attention_layernorm(x))

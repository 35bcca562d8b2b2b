"""Load a checkpoint to convert, and read the projections of its layers.

Letters: ``H`` query heads, ``G`` key-value heads, ``d`` width of a head, ``D`` width of
the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention

from espnet_mtla.attention.linear import is_plain_linear
from espnet_mtla.errors import UserError
from espnet_mtla.hf.llama_style import (
    check_llama_style,
    load_causal_model,
    read_llama_style,
)

# These have Llama's layers; :func:`check_source` checks their features.
MODEL_TYPES = ("llama", "mistral", "qwen2")


@dataclass(frozen=True)
class Projections:
    """Projections of a layer in float64; the last of ``D + 1`` columns is the bias."""

    q: Tensor  # (H, d, D + 1)
    k: Tensor  # (G, d, D + 1)
    v: Tensor  # (G, d, D + 1)
    o: Tensor  # (H, D, d)
    o_bias: Tensor  # (D,)

    @classmethod
    def of(
        cls, attention: LlamaAttention, head: int, factor: float = 1.0
    ) -> Projections:
        """Read the projections of Transformers' attention.

        Args:
            attention: of one layer.
            head: width of a head.
            factor: by which rotation scales queries and keys; applied to the queries
                here, twice.

        Raises:
            UserError: a projection is not a plain linear map.
        """
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            if not is_plain_linear(getattr(attention, name)):
                raise UserError(
                    f"{name}: not a plain linear layer (it has an adapter, an "
                    "offloading hook or quantised weights), which can't be converted; "
                    "merge adapters, load without device_map"
                )
        o = attention.o_proj
        bias = o.weight.new_zeros(o.weight.size(0)) if o.bias is None else o.bias
        return cls(
            q=_augmented(attention.q_proj, head) * factor**2,
            k=_augmented(attention.k_proj, head),
            v=_augmented(attention.v_proj, head),
            o=o.weight.detach().double().unflatten(1, (-1, head)).transpose(0, 1),
            o_bias=bias.detach().double(),
        )

    @property
    def group(self) -> Tensor:
        """Return the key-value head of each query head, ``(H,)``."""
        heads, groups = self.q.size(0), self.k.size(0)
        return torch.arange(heads, device=self.q.device) // (heads // groups)


def _augmented(linear: nn.Linear, head: int) -> Tensor:
    """Return weight and bias side by side by head, ``(heads, d, D + 1)``."""
    weight = linear.weight.detach().double()
    bias = (
        weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach()
    )
    both = torch.cat((weight, bias.double().unsqueeze(1)), dim=1)
    return both.unflatten(0, (-1, head))


def load_config(name: str) -> PretrainedConfig:
    """Load the configuration of a checkpoint to convert.

    Args:
        name: folder, or name on the hub.

    Raises:
        UserError: there is no checkpoint, it needs code of its own, or it is not of a
            supported architecture.
    """
    return read_llama_style(name, MODEL_TYPES, use="converted")


def load_source(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint to convert.

    Args:
        name: folder, or name on the hub.
        dtype: of its weights.

    Raises:
        UserError: see :func:`load_config`, or it is a pickle or lacks weights.
    """
    load_config(name)
    return load_causal_model(name, dtype)


def source_cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of keys and values of one token in all layers of a Llama."""
    attention = model.model.layers[0].self_attn
    width = attention.k_proj.out_features + attention.v_proj.out_features
    return width * len(model.model.layers) * model.dtype.itemsize


def check_source(name: str, config: PretrainedConfig) -> None:
    """Raise :class:`UserError` naming a feature that cannot be converted."""
    check_llama_style(name, config, MODEL_TYPES, use="converted")

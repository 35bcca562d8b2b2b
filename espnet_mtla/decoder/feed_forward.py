"""The parts of a layer beside attention: norms, and feed-forward networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from espnet_mtla.decoder.config import DecoderConfig


def build_norm(config: DecoderConfig) -> nn.Module:
    """Build the norm of vectors of the model's width that ``norm`` names."""
    norms = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
    return norms[config.norm](config.embed_dim, eps=config.norm_eps)


def build_feed_forward(config: DecoderConfig) -> nn.Module:
    """Build the network that ``feed_forward`` names, ``(..., D) -> (..., D)``."""
    if config.feed_forward == "swiglu":
        return SwiGLU(config)
    return nn.Sequential(
        nn.Linear(config.embed_dim, config.ffn_dim, bias=config.ffn_bias),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(config.ffn_dim, config.embed_dim, bias=config.ffn_bias),
    )


class SwiGLU(nn.Module):
    """Gated network of Llama (arXiv 2002.05202): ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, hidden, bias = config.embed_dim, config.ffn_dim, config.ffn_bias
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.dropout = nn.Dropout(config.dropout)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., D)`` for ``x (..., D)``."""
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))

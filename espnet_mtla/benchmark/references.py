"""Attention that ours is compared with: the public ``mtla`` package, and SDPA."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:

    class ReferenceAttention(nn.Module):
        """Interface of the reference's module, besides ``forward``."""

        def reorder_incremental_state(
            self, state: dict[str, Any], rows: Tensor
        ) -> None: ...


class SdpaMultihead(nn.Module):
    """MHA as commonly written: four projections and torch's SDPA."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return causal self-attention of rows ``(B, T, D)``, of the same shape."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


def mtla_attention(
    embed_dim: int, num_heads: int, stride: int, **widths: int
) -> ReferenceAttention | None:
    """Return the reference's MTLA module; None if its package is not installed.

    The module is loaded from its file: importing the whole package would need
    Transformers. It is called as in :func:`run_mtla`.

    Args:
        embed_dim: model width D.
        num_heads: attention heads.
        stride: positions per chunk.
        widths: of latents and heads, under the reference's names.
    """
    spec = importlib.util.find_spec("mtla")
    if spec is None or spec.origin is None:
        return None
    name = "mtla_reference_attention"
    if name not in sys.modules:
        path = Path(spec.origin).parent / "MTLA.py"
        file_spec = importlib.util.spec_from_file_location(name, path)
        if file_spec is None or file_spec.loader is None:
            raise ImportError(f"{path}: cannot be loaded as a module")
        module = importlib.util.module_from_spec(file_spec)
        file_spec.loader.exec_module(module)
        sys.modules[name] = module
    module_class = sys.modules[name].MultiheadTemporalLatentAttention
    return module_class(embed_dim, num_heads, down_rate=stride, **widths)


def run_mtla(module: nn.Module, x: Tensor) -> Tensor:
    """Run the reference over whole rows ``(B, T, D)``, as in training."""
    position = torch.arange(x.size(1), device=x.device, dtype=torch.float32)
    return module(query=x, key=x, value=x, position=position.unsqueeze(0))

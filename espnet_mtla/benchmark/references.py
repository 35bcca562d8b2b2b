"""What we are compared with: the public ``mtla`` package, and plain SDPA."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:

    class PeerAttention(nn.Module):
        """What is called of the reference's module besides ``forward``."""

        def reorder_incremental_state(
            self, state: dict[str, Any], rows: Tensor
        ) -> None: ...


class SdpaMultihead(nn.Module):
    """MHA as anybody writes it today: four projections around a flash kernel."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D) -> (B, T, D)``, causal."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))


def mtla_attention(
    embed_dim: int, num_heads: int, stride: int, **widths: int
) -> PeerAttention | None:
    """The reference's MTLA module, or None where its package is not installed.

    Loaded by file, since importing the package needs Transformers. It runs with
    ``query=key=value=x`` and float positions, see :func:`run_mtla`.
    """
    spec = importlib.util.find_spec("mtla")
    if spec is None or spec.origin is None:
        return None
    name = "mtla_peer_attention"
    if name not in sys.modules:
        path = Path(spec.origin).parent / "MTLA.py"
        peer = importlib.util.spec_from_file_location(name, path)
        if peer is None or peer.loader is None:
            raise ImportError(f"{path}: cannot be loaded as a module")
        module = importlib.util.module_from_spec(peer)
        peer.loader.exec_module(module)
        sys.modules[name] = module
    peer_type = sys.modules[name].MultiheadTemporalLatentAttention
    return peer_type(embed_dim, num_heads, down_rate=stride, **widths)


def run_mtla(module: nn.Module, x: Tensor) -> Tensor:
    """The reference over whole rows ``(B, T, D)``, as in training."""
    position = torch.arange(x.size(1), device=x.device, dtype=torch.float32)
    return module(query=x, key=x, value=x, position=position.unsqueeze(0))

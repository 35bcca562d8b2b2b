"""Settings of the attention types. Their defaults and checks are written here alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from espnet_mtla.settings.checks import check_count, check_flags, check_number, require

_FROM_OTHERS: Any = None  # __post_init__ computes it from the other settings


@dataclass(frozen=True)
class MultiheadConfig:
    """Settings of MHA, GQA and MQA, which differ in ``num_kv_heads`` alone.

    ``num_kv_heads=None`` means as many as query heads (MHA); ``head_dim=None`` means
    ``embed_dim / num_heads``.
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = False
    num_kv_heads: int = _FROM_OTHERS
    head_dim: int = _FROM_OTHERS
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        check_count(self, "embed_dim", "num_heads")
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)
        check_count(self, "num_kv_heads", "head_dim")
        check_number(self, "dropout", inside="[0, 1)")
        check_number(self, "rope_base", inside="(0, inf)")
        check_flags(self, "bias")
        require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            self.num_kv_heads,
            f"a divisor of num_heads={self.num_heads} is",
        )
        require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number is")


@dataclass(frozen=True)
class LatentConfig:
    """Settings of Multi-head Latent Attention (MLA); widths: paper, table 1."""

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = False
    q_lora_rank: int = 0  # 0: queries come from one full projection
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        check_count(self, "embed_dim", "num_heads", "kv_lora_rank")
        check_count(self, "qk_nope_head_dim", "v_head_dim")
        check_count(self, "q_lora_rank", "qk_rope_head_dim", least=0)
        check_number(self, "dropout", inside="[0, 1)")
        check_number(self, "rope_base", inside="(0, inf)")
        check_flags(self, "bias")
        require(
            self.qk_rope_head_dim % 2 == 0,
            "qk_rope_head_dim",
            self.qk_rope_head_dim,
            "an even number is",
        )

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key, which also sets the softmax scale."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def stride(self) -> int:
        """Tokens of a chunk, which share a cache entry: 1 in MLA."""
        return 1


@dataclass(frozen=True)
class TemporalLatentConfig(LatentConfig):
    """Settings of Multi-head Temporal Latent Attention (MTLA): MLA and the stride s."""

    down_rate: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "down_rate")
        rank = self.kv_lora_rank
        # The chunk encoding consists of pairs; the hyper-network has r/4 features.
        require(
            rank % 2 == 0 and rank >= 4, "kv_lora_rank", rank, "an even number >= 4 is"
        )

    @property
    def stride(self) -> int:
        """Tokens of a chunk: the paper's s."""
        return self.down_rate

"""Settings of the attention types. Their defaults and checks are written here alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from espnet_mtla.settings.checks import (
    check_choice,
    check_count,
    check_flags,
    check_number,
    require,
)

_FROM_OTHERS: Any = None  # __post_init__ computes it from the other settings
KV_NORMS = ("layer", "none")
Frequencies = tuple[float, ...] | None


def _check_frequencies(settings: Any, width: str) -> None:
    """Require a frequency for each rotary pair; a list becomes a tuple of floats.

    Args:
        settings: has ``rope_frequencies``; None there means that none are set.
        width: name of the field with the number of rotated components.
    """
    values = settings.rope_frequencies
    if values is None:
        return
    pairs = getattr(settings, width) // 2
    fits = isinstance(values, list | tuple) and len(values) == pairs
    fits = fits and all(map(is_finite, values))
    needed = f"{pairs} numbers, {width} / 2 of them, are"
    require(fits, "rope_frequencies", values, needed)
    object.__setattr__(settings, "rope_frequencies", tuple(map(float, values)))


def is_finite(value: object) -> bool:
    """Return True for finite numbers; True and False are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


@dataclass(frozen=True)
class MultiheadConfig:
    """Settings of MHA, GQA and MQA, which differ in ``num_kv_heads`` alone.

    Attributes:
        bias: biases of the projections.
        num_kv_heads: None: as many as query heads (MHA).
        head_dim: None: ``embed_dim / num_heads``.
        rope_base: base of the rotary frequencies.
        rope_frequencies: radians per token of each of the ``head_dim / 2`` pairs; None:
            computed from ``rope_base``.
        output_bias: bias of the output projection; None: as ``bias`` (Qwen2 has biases
            of queries, keys and values alone).
        qk_norm: RMSNorm of each head's query and key, before rotation (Qwen3).
        qk_norm_eps: added to the mean square in that norm.
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = False
    num_kv_heads: int = _FROM_OTHERS
    head_dim: int = _FROM_OTHERS
    rope_base: float = 10000.0
    rope_frequencies: Frequencies = None
    output_bias: bool = _FROM_OTHERS
    qk_norm: bool = False
    qk_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_count(self, "embed_dim", "num_heads")
        if self.output_bias is None:
            object.__setattr__(self, "output_bias", self.bias)
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.embed_dim // self.num_heads)
        check_count(self, "num_kv_heads", "head_dim")
        check_number(self, "dropout", inside="[0, 1)")
        check_number(self, "rope_base", "qk_norm_eps", inside="(0, inf)")
        check_flags(self, "bias", "output_bias", "qk_norm")
        require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            self.num_kv_heads,
            f"a divisor of num_heads={self.num_heads} is",
        )
        require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number is")
        _check_frequencies(self, "head_dim")


@dataclass(frozen=True)
class LatentConfig:
    """Settings of Multi-head Latent Attention (MLA); widths: paper, table 1.

    Attributes:
        bias: biases of the projections.
        q_lora_rank: width of the low-rank bottleneck of queries; 0: queries come from
            one full projection.
        kv_lora_rank: width r of a latent.
        qk_nope_head_dim: width d_N of the part of a head's key that comes from the
            latent.
        qk_rope_head_dim: width d_R of the rotary key that all heads share.
        v_head_dim: width d_V of a head's value.
        rope_base: base of the rotary frequencies.
        rope_frequencies: radians per token of each of the ``qk_rope_head_dim / 2``
            pairs; None: computed from ``rope_base``.
        kv_norm: ``layer`` (LayerNorm of the latents, as in the paper) or ``none``, as
            in converted models.
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    rope_base: float = 10000.0
    rope_frequencies: Frequencies = None
    kv_norm: str = "layer"

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
        check_choice(self, "kv_norm", KV_NORMS)
        _check_frequencies(self, "qk_rope_head_dim")

    @property
    def qk_head_dim(self) -> int:
        """Width of one head's query and key, which also sets the softmax scale."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def stride(self) -> int:
        """Tokens of a chunk, which share a cache entry: 1 in MLA."""
        return 1

    @property
    def offset(self) -> int:
        """Tokens that the first chunk lacks, see :class:`TemporalLatentConfig`."""
        return 0

    @property
    def window(self) -> int:
        """Newest tokens that are seen unmerged beside the merged chunks."""
        return 0


@dataclass(frozen=True)
class TemporalLatentConfig(LatentConfig):
    """Settings of Multi-head Temporal Latent Attention (MTLA): MLA and the stride s.

    With ``raw_window: w`` a query sees the newest w tokens unmerged, itself among them.
    Tokens leave the window chunk by chunk: a chunk is seen merged once its last token
    is at least w tokens older than the query, and until then its tokens are seen one by
    one. No token is therefore seen twice, and none is missed: a window of exactly w
    tokens would cut a chunk in two, and a merged entry cannot be divided. A query sees
    between w and w + s - 1 unmerged tokens, and no unfinished chunk.

    With ``phase`` the chunks of every second layer (1, 3, ...) begin ``s // 2`` tokens
    later: their first chunk has only ``s // 2`` tokens. Tokens that share a chunk in
    one layer are then in different chunks in the next, for the same cache.

    Attributes:
        down_rate: temporal stride s: tokens of a chunk.
        raw_window: w, in tokens; 0: unfinished chunks are seen as running sums, as in
            the paper.
        phase: shift the chunks of every second layer.
        layer: index of the layer, counted from 0; read if ``phase`` is true.
    """

    down_rate: int = 2
    raw_window: int = 0
    phase: bool = False
    layer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "down_rate")
        check_count(self, "raw_window", "layer", least=0)
        check_flags(self, "phase")
        rank = self.kv_lora_rank
        # The chunk encoding consists of pairs; the hyper-network has r/4 features.
        require(
            rank % 2 == 0 and rank >= 4, "kv_lora_rank", rank, "an even number >= 4 is"
        )

    @property
    def stride(self) -> int:
        """Tokens of a chunk: the paper's s."""
        return self.down_rate

    @property
    def offset(self) -> int:
        """Tokens that the first chunk lacks: token i is in chunk ``(i + offset) // s``.

        >>> shifted = {"embed_dim": 8, "num_heads": 1, "phase": True, "layer": 1}
        >>> [TemporalLatentConfig(**shifted, down_rate=s).offset for s in (1, 2, 3, 4)]
        [0, 1, 2, 2]
        """
        if not self.phase or self.layer % 2 == 0:
            return 0
        return (self.down_rate - self.down_rate // 2) % self.down_rate

    @property
    def window(self) -> int:
        """Newest tokens that are seen unmerged beside the merged chunks."""
        return self.raw_window

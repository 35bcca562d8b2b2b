"""MHA, GQA, MQA, MLA and MTLA over one cache. Needs torch alone.

Read ``config``, ``rope``, ``merge``, ``base``, ``multihead``, ``latent``, ``temporal``
first: settings, positions, temporal merging, what all types share, and the types.
``naive`` is the same mathematics with dense matrices, for tests. ``training`` computes
whole rows; ``decoding`` holds the cache and its back-ends. ``reference_api`` is the
signature of the reference code, ``registry`` finds types by name, ``linear`` and
``overrides`` read weights through their modules, ``inspect`` returns attention weights.
"""

from espnet_mtla.attention.base import CausalAttention, QueryTokens
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import CacheOptions, EntryLayout
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.attention.latent import MultiheadLatentAttention
from espnet_mtla.attention.multihead import MultiheadAttention
from espnet_mtla.attention.registry import (
    ATTENTIONS,
    attention_settings,
    build_attention,
    complete_settings,
    parse_attention,
)
from espnet_mtla.attention.temporal import (
    MultiheadTemporalLatentAttention,
    MultiheadTemporalLatentCrossAttention,
)

NewTokens = TokenPlacement
"""The name of :class:`TokenPlacement` in version 0.2."""

__all__ = [
    "ATTENTIONS",
    "CacheOptions",
    "CausalAttention",
    "EntryLayout",
    "KVCache",
    "MultiheadAttention",
    "MultiheadLatentAttention",
    "MultiheadTemporalLatentAttention",
    "MultiheadTemporalLatentCrossAttention",
    "NewTokens",
    "QueryTokens",
    "Timeline",
    "TokenPlacement",
    "attention_settings",
    "build_attention",
    "complete_settings",
    "parse_attention",
]

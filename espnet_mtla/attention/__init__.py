"""MHA, GQA, MQA, MLA and MTLA over one cache. Needs torch alone.

Read first ``config``, ``rope``, ``merge``, ``contract``, ``base``, ``multihead``,
``latent`` and ``temporal``: settings, positions, temporal merging, what a type
implements, how every type runs, and the types. ``naive`` computes the same with dense
matrices, for tests.

``training`` computes attention of whole rows; ``decoding`` has the cache and its
back-ends. ``reference_api`` is the call signature of the authors' code, ``registry``
finds types by name, ``query_tokens`` says which tokens are queries, ``linear`` and
``overrides`` read weights of modules that adapters may have changed, ``inspect``
computes attention weights, ``precision`` has shared constants of arithmetic.
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

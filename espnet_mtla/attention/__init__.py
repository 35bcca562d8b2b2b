"""MHA, GQA, MQA, MLA and MTLA over one cache. Needs torch alone.

Read in this order: ``config`` (settings), ``rope``, ``merge`` (temporal merging),
``layout`` and ``quantise`` (what an entry holds), ``timeline`` and ``cache``;
``attend`` (training), with ``strided``, ``blocked``, ``flash``, ``flex``, ``dense`` and
``operators`` under it; ``backend`` and ``cached`` (decoding); ``causal`` (training,
prefill, step), ``multihead`` and ``latent`` (the types), with ``linear`` (matrices of
layers that have adapters) and ``overrides`` (when a fused kernel stands down),
``cross``, ``interface`` (the reference's signature), ``registry`` (types by name).
"""

from espnet_mtla.attention.cache import CacheOptions, EntryLayout, KVCache
from espnet_mtla.attention.causal import CausalAttention, QueryTokens
from espnet_mtla.attention.cross import MultiheadTemporalLatentCrossAttention
from espnet_mtla.attention.latent import (
    MultiheadLatentAttention,
    MultiheadTemporalLatentAttention,
)
from espnet_mtla.attention.multihead import MultiheadAttention
from espnet_mtla.attention.registry import (
    ATTENTIONS,
    attention_settings,
    build_attention,
    complete_settings,
    parse_attention,
)
from espnet_mtla.attention.timeline import NewTokens, Timeline

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
    "attention_settings",
    "build_attention",
    "complete_settings",
    "parse_attention",
]

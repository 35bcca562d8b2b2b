"""MHA, GQA, MQA, MLA and MTLA over one cache. Needs torch alone.

Read in this order: ``config`` (settings), ``rope``, ``merge`` (temporal merging),
``timeline`` and ``cache``, ``attend`` (training) with ``strided``, ``blocked``,
``flash``, ``flex`` and ``dense`` under it, ``backend`` and ``cached`` (decoding),
``causal`` (training, prefill, step), ``multihead`` and ``latent`` (the types),
``cross``, ``interface`` (the reference's signature).
"""

from espnet_mtla.attention.cache import CacheOptions, EntryLayout, KVCache
from espnet_mtla.attention.causal import Asking, CausalAttention
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
)
from espnet_mtla.attention.timeline import NewTokens, Timeline

__all__ = [
    "ATTENTIONS",
    "Asking",
    "CacheOptions",
    "CausalAttention",
    "EntryLayout",
    "KVCache",
    "MultiheadAttention",
    "MultiheadLatentAttention",
    "MultiheadTemporalLatentAttention",
    "MultiheadTemporalLatentCrossAttention",
    "NewTokens",
    "Timeline",
    "attention_settings",
    "build_attention",
    "complete_settings",
]

"""Stand-ins for the FlashAttention builds: their signatures and checks, torch inside.

They hold our calls to what the packages' sources demand of shapes, types and layouts.
They say nothing about the packages' own results or speed.
"""

from __future__ import annotations

import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor


def install(
    monkeypatch: pytest.MonkeyPatch, name: str, **contents: object
) -> ModuleType:
    """A package of that name with these functions, for one test."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def two(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    rotary_cos=None,
    rotary_sin=None,
    cache_seqlens=None,
    cache_batch_idx=None,
    cache_leftpad=None,
    block_table=None,
    softmax_scale=None,
    causal=False,
    return_softmax_lse=False,
):
    """``flash_attn.flash_attn_with_kvcache`` of version 2.7 and later."""
    given = (k, v, rotary_cos, rotary_sin, cache_leftpad, block_table)
    assert given == (None,) * 6 and not causal
    assert q.size(3) == k_cache.size(3) == v_cache.size(3) <= 256
    out, lse = _attention(
        q, k_cache, v_cache, cache_seqlens, cache_batch_idx, softmax_scale
    )
    return (out, lse) if return_softmax_lse else out


def two_before_lse(q, k_cache, v_cache, cache_seqlens=None, softmax_scale=None):
    """``flash_attn.flash_attn_with_kvcache`` of an old version, never to be called."""
    raise AssertionError((q, k_cache, v_cache, cache_seqlens, softmax_scale))


def mtla(
    q,
    kcache,
    value_head_dim,
    k,
    seqlens_k,
    rotary_cos,
    rotary_sin,
    cache_batch_idx,
    block_table,
    alibi_slopes,
    out,
    softmax_scale,
    is_causal,
    window_size_left,
    window_size_right,
    is_rotary_interleaved,
    num_splits,
):
    """``fwd_kvcache_mtla`` of the build for MTLA: every argument by its place."""
    given = (k, rotary_cos, rotary_sin, block_table, alibi_slopes, out)
    assert given == (None,) * 6
    assert (window_size_left, window_size_right) == (-1, -1)
    assert isinstance(num_splits, int) and num_splits >= 1
    assert is_causal is False and is_rotary_interleaved is True
    assert q.size(3) == kcache.size(3) <= 288 and value_head_dim <= 256
    values = kcache[..., :value_head_dim]
    found = _attention(q, kcache, values, seqlens_k, cache_batch_idx, softmax_scale)
    return list(found)


def three(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    qv=None,
    cache_seqlens=None,
    cache_batch_idx=None,
    softmax_scale=None,
    causal=False,
    return_softmax_lse=False,
):
    """``flash_attn_interface.flash_attn_with_kvcache``; it returns more than two."""
    assert k is None and v is None and not causal and return_softmax_lse
    if qv is not None:
        assert q.size(3) <= 64 and qv.size(3) == v_cache.size(3) in (256, 512)
        q, k_cache = torch.cat((qv, q), -1), torch.cat((v_cache, k_cache), -1)
    found = _attention(
        q, k_cache, v_cache, cache_seqlens, cache_batch_idx, softmax_scale
    )
    return (*found, None, None)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, source: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    rows, tokens, heads, _ = q.shape
    copies, slots, groups, _ = k.shape
    assert q.dtype == k.dtype == v.dtype in (torch.float16, torch.bfloat16)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert tokens == 1 and heads % groups == 0
    assert v.shape[:3] == (copies, slots, groups)
    for counts in (seen, source):
        assert counts.dtype == torch.int32 and counts.is_contiguous()
        assert counts.shape == (rows,)
    out = torch.zeros(rows, 1, heads, v.size(3))
    lse = torch.full((rows, heads, 1), math.inf)  # what version 2 says of no keys
    for row in range(rows):
        size = int(seen[row])
        if size == 0:
            continue
        keys = k[source[row], :size].float().repeat_interleave(heads // groups, 1)
        values = v[source[row], :size].float().repeat_interleave(heads // groups, 1)
        scores = torch.einsum("hd,shd->hs", q[row, 0].float(), keys) * scale
        lse[row, :, 0] = scores.logsumexp(-1)
        out[row, 0] = torch.einsum("hs,shv->hv", scores.softmax(-1), values)
    return out.to(q.dtype), lse

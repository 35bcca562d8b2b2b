"""Triton kernels of a decoding step: attention over entries, its merges, a new token.

Letters: ``R`` rows of entries, ``G`` entry heads, ``M`` queries of a head, ``S`` slots,
``d`` key width, ``e`` value width, ``N`` rows of tokens, ``r`` latent width, ``s``
stride. Every sum runs in float32 and in a fixed order: the same input gives the same
bits. Names in capitals are known when a kernel is compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend_kernel(
    q_ptr,  # (R, G, M, d)
    entry_ptr,  # (R, G, S, w)
    visible_ptr,  # (R, M or 1)
    out_ptr,  # (splits, R, G, M, e), dense
    lse_ptr,  # (splits, R, G, M), dense
    scale,
    heads,  # G
    queries,  # M
    q_row,
    q_head,
    q_query,
    entry_row,
    entry_head,
    entry_slot,
    visible_row,
    visible_query,
    MAIN: tl.constexpr,  # key width that the first product reads
    TAIL: tl.constexpr,  # key width behind it: a latent's rotary part
    VALUE: tl.constexpr,  # e
    VALUE_START: tl.constexpr,
    SHARED: tl.constexpr,  # the main part of the key is the value: one tile is both
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_MAIN: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of queries over one split of its row's visible entries.

    Programs: axis 0 row, head and block of queries, these beside each other so that
    they find the row's entries in the L2 cache; axis 1 the split.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    group, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    split, splits = tl.program_id(1), tl.num_programs(1)
    row, head = (group // heads).to(tl.int64), (group % heads).to(tl.int64)

    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    asks = m < queries
    visible = tl.load(
        visible_ptr + row * visible_row + m * visible_query, mask=asks, other=0
    ).to(tl.int32)
    tiles = tl.cdiv(tl.max(visible, 0), BLOCK_S)
    share = tl.cdiv(tiles, splits) * BLOCK_S
    first = split * share
    stop = tl.minimum(first + share, tl.max(visible, 0))

    c = tl.arange(0, BLOCK_MAIN)
    q_at = q_ptr + row * q_row + head * q_head + m[:, None] * q_query
    q = tl.load(q_at + c, mask=asks[:, None] & (c < MAIN), other=0.0)
    if TAIL > 0:
        t = tl.arange(0, BLOCK_TAIL)
        q_tail = tl.load(q_at + MAIN + t, mask=asks[:, None] & (t < TAIL), other=0.0)
    v = tl.arange(0, BLOCK_VALUE)
    entries = entry_ptr + row * entry_row + head * entry_head

    peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    summed = tl.zeros((BLOCK_M, BLOCK_VALUE), tl.float32)
    for start in tl.range(first, stop, BLOCK_S):
        slot = start + tl.arange(0, BLOCK_S)
        # Slots from ``stop`` on may hold anything: they are not read.
        written = (slot < stop)[:, None]
        at = entries + slot[:, None] * entry_slot
        keys = tl.load(at + c, mask=written & (c < MAIN), other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        if TAIL > 0:
            tail = tl.load(at + MAIN + t, mask=written & (t < TAIL), other=0.0)
            scores = tl.dot(q_tail, tl.trans(tail), scores, input_precision=PRECISION)
        seen = slot[None, :] < tl.minimum(visible, stop)[:, None]
        scores = tl.where(seen, scores * (scale * _LOG2E), float("-inf"))

        new_peak = tl.maximum(peak, tl.max(scores, 1))
        level = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - level[:, None])
        shrink = tl.exp2(peak - level)
        total = total * shrink + tl.sum(weights, 1)
        if SHARED:
            values = keys
        else:
            values = tl.load(
                at + VALUE_START + v, mask=written & (v < VALUE), other=0.0
            )
        summed = tl.dot(
            weights.to(values.dtype),
            values,
            summed * shrink[:, None],
            input_precision=PRECISION,
        )
        peak = new_peak

    none = total == 0.0
    out = summed / tl.where(none, 1.0, total)[:, None]
    level = tl.where(none, 0.0, peak)
    lse = (level + tl.log2(tl.where(none, 1.0, total))) * _LN2
    lse = tl.where(none, float("-inf"), lse)
    groups = tl.num_programs(0) // blocks
    place = (split.to(tl.int64) * groups + group) * queries + m
    tl.store(lse_ptr + place, lse, mask=asks)
    tl.store(
        out_ptr + place[:, None] * VALUE + v,
        out.to(out_ptr.dtype.element_ty),
        mask=asks[:, None] & (v < VALUE),
    )


@triton.jit
def reduce_kernel(
    part_ptr,  # (P, rows, e), dense
    part_lse_ptr,  # (P, rows), dense
    out_ptr,  # (rows, e), dense
    lse_ptr,  # (rows,)
    rows,
    parts,  # P
    WIDTH: tl.constexpr,  # e
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,  # P, rounded up
):
    """Softmax over all splits, from the softmax of each. Programs: row, columns."""
    row = tl.program_id(0).to(tl.int64)
    p, c = tl.arange(0, PARTS), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    lse = tl.load(part_lse_ptr + p * rows + row, mask=p < parts, other=float("-inf"))
    peak = tl.max(lse, 0)
    level = tl.where(peak == float("-inf"), 0.0, peak)
    weights = tl.exp2((lse - level) * _LOG2E)
    total = tl.sum(weights, 0)
    at = part_ptr + (p[:, None] * rows + row) * WIDTH + c
    part = tl.load(at, mask=(p < parts)[:, None] & (c < WIDTH), other=0.0)
    out = tl.sum(part * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(
        out_ptr + row * WIDTH + c, out.to(out_ptr.dtype.element_ty), mask=c < WIDTH
    )
    if tl.program_id(1) == 0:
        whole = level + tl.log2(tl.where(total == 0.0, 1.0, total)) * _LN2
        tl.store(lse_ptr + row, tl.where(total == 0.0, float("-inf"), whole))


@triton.jit
def merge_kernel(
    a_ptr,  # (rows, e), dense, as are b and out
    a_lse_ptr,  # (rows,)
    b_ptr,
    b_lse_ptr,
    out_ptr,
    rows,
    WIDTH: tl.constexpr,  # e
    BLOCK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Softmax over two sets of entries, from the softmax over each."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c, real = tl.arange(0, BLOCK), row < rows
    a_lse = tl.load(a_lse_ptr + row, mask=real, other=float("-inf"))
    b_lse = tl.load(b_lse_ptr + row, mask=real, other=float("-inf"))
    peak = tl.maximum(a_lse, b_lse)
    level = tl.where(peak == float("-inf"), 0.0, peak)
    a_weight = tl.exp2((a_lse - level) * _LOG2E)
    b_weight = tl.exp2((b_lse - level) * _LOG2E)
    total = a_weight + b_weight
    total = tl.where(total == 0.0, 1.0, total)
    at, mask = row[:, None] * WIDTH + c, real[:, None] & (c < WIDTH)
    a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
    out = a * (a_weight / total)[:, None] + b * (b_weight / total)[:, None]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def write_kernel(
    raw_ptr,  # (N, r + d_R): the token's projection, neither normed nor rotated
    gain_ptr,  # (r,), of the LayerNorm, as is shift
    shift_ptr,
    angle_ptr,  # (N or 1, d_R / 2), float32
    code_ptr,  # (N, r), dense: the encoded index of each token's chunk
    slot_ptr,  # (N,) where each entry stands in the cache
    open_ptr,  # (N,) whether it holds earlier tokens of the chunk
    fc_c_ptr,  # (r / 4, r), dense, as is fc_p: the hyper-network
    fc_c_bias_ptr,  # (r / 4,)
    fc_p_ptr,
    fc_p_bias_ptr,
    cache_ptr,  # (N, 1, S, r + d_R)
    raw_row,
    angle_row,
    cache_row,
    cache_slot,
    rows,  # N
    epsilon,
    MERGES: tl.constexpr,  # whether there is a hyper-network
    RANK: tl.constexpr,
    ROPE: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_RANK: tl.constexpr,
    BLOCK_ROPE: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """LayerNorm, merge weight, running sum, rotary key, and the entry into its slot."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = row < rows
    slot = tl.load(slot_ptr + row, mask=real, other=0)
    raw = raw_ptr + row[:, None] * raw_row
    entry = cache_ptr + row[:, None] * cache_row + slot[:, None] * cache_slot

    c = tl.arange(0, BLOCK_RANK)
    inside = real[:, None] & (c < RANK)
    x = tl.load(raw + c, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / RANK
    centred = tl.where(inside, x - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / RANK + epsilon)
    gain = tl.load(gain_ptr + c, mask=c < RANK, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + c, mask=c < RANK, other=0.0).to(tl.float32)
    latent = centred * spread[:, None] * gain + shift

    if MERGES:
        f = tl.arange(0, BLOCK_FEATURES)
        of_chunk = tl.zeros((BLOCK_N, BLOCK_FEATURES), tl.float32)
        of_latent = tl.zeros((BLOCK_N, BLOCK_FEATURES), tl.float32)
        for start in tl.range(0, RANK, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            mask = real[:, None] & (k < RANK)
            code = tl.load(code_ptr + row[:, None] * RANK + k, mask=mask, other=0.0)
            part = tl.load(raw + k, mask=mask, other=0.0)
            part = (part.to(tl.float32) - mean[:, None]) * spread[:, None]
            part *= tl.load(gain_ptr + k, mask=k < RANK, other=0.0).to(tl.float32)
            part += tl.load(shift_ptr + k, mask=k < RANK, other=0.0).to(tl.float32)
            at = f[None, :] * RANK + k[:, None]
            known = (f < FEATURES)[None, :] & (k < RANK)[:, None]
            fc_c = tl.load(fc_c_ptr + at, mask=known, other=0.0)
            fc_p = tl.load(fc_p_ptr + at, mask=known, other=0.0)
            of_chunk = tl.dot(
                code.to(fc_c.dtype), fc_c, of_chunk, input_precision=PRECISION
            )
            of_latent = tl.dot(
                part.to(fc_p.dtype), fc_p, of_latent, input_precision=PRECISION
            )
        of_chunk += tl.load(fc_c_bias_ptr + f, mask=f < FEATURES, other=0.0)
        of_latent += tl.load(fc_p_bias_ptr + f, mask=f < FEATURES, other=0.0)
        weight = tl.sigmoid(tl.sum(of_chunk * of_latent, 1))
        latent = latent * weight[:, None]
        # Read only where a chunk is open: other slots may hold anything.
        is_open = tl.load(open_ptr + row, mask=real, other=0) != 0
        carry = tl.load(entry + c, mask=inside & is_open[:, None], other=0.0)
        latent += carry.to(tl.float32)
    tl.store(entry + c, latent.to(cache_ptr.dtype.element_ty), mask=inside)

    if ROPE > 0:
        p = tl.arange(0, BLOCK_ROPE)
        pair = real[:, None] & (p < ROPE // 2)
        even = tl.load(raw + RANK + 2 * p, mask=pair, other=0.0).to(tl.float32)
        odd = tl.load(raw + RANK + 2 * p + 1, mask=pair, other=0.0).to(tl.float32)
        angle = tl.load(angle_ptr + row[:, None] * angle_row + p, mask=pair, other=0.0)
        cos, sin = tl.cos(angle), tl.sin(angle)
        key = entry + RANK + 2 * p
        kind = cache_ptr.dtype.element_ty
        tl.store(key, (even * cos - odd * sin).to(kind), mask=pair)
        tl.store(key + 1, (even * sin + odd * cos).to(kind), mask=pair)

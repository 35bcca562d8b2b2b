"""Triton kernels of attention over cached entries, and of merging attentions.

The attention kernel is an online softmax: a program goes through tiles of entries and
keeps the largest score so far (``peak``), the sum of ``exp(score - peak)`` (``total``)
and the weighted sum of values (``out``). When the peak grows, ``total`` and ``out`` are
multiplied by ``exp(old peak - new peak)``. Scores are multiplied by log2(e), so that
``exp2`` can be used, which GPUs compute in one instruction.

Letters: ``R`` rows, ``G`` entry heads, ``M`` queries of a head, ``S`` slots, ``d`` key
width, ``e`` value width. Sums are float32 and in a fixed order, so that equal inputs
give equal bits. Names in capitals are compile-time constants.
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
    VALUE_START: tl.constexpr,  # 0 where the main part of a key is the value too
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_MAIN: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute attention of a block of queries over one split of the visible entries.

    Axis 0 is row, head and block of queries: the blocks of a head are neighbours and
    share its entries in the L2 cache. Axis 1 is the split, a whole number of tiles.
    """
    blocks = tl.cdiv(queries, BLOCK_M)
    group, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row, head = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    is_query = m < queries
    seen_at = visible_ptr + row * visible_row + m * visible_query
    visible = tl.load(seen_at, mask=is_query, other=0).to(tl.int32)
    most = tl.max(visible, 0)
    split, splits = tl.program_id(1), tl.num_programs(1)
    share = tl.cdiv(tl.cdiv(most, BLOCK_S), splits) * BLOCK_S
    first = split * share
    stop = tl.minimum(first + share, most)

    c, t = tl.arange(0, BLOCK_MAIN), tl.arange(0, BLOCK_TAIL)
    q_at = q_ptr + row * q_row + head * q_head + m[:, None] * q_query
    q = tl.load(q_at + c, mask=is_query[:, None] & (c < MAIN), other=0.0)
    q_tail = tl.load(q_at + MAIN + t, mask=is_query[:, None] & (t < TAIL), other=0.0)
    out, peak, total = _attend_slots(
        q,
        q_tail,
        entry_ptr + row * entry_row + head * entry_head,
        entry_slot,
        visible,
        first,
        stop,
        scale * _LOG2E,
        MAIN,
        TAIL,
        VALUE,
        VALUE_START,
        BLOCK_S,
        BLOCK_VALUE,
        PRECISION,
    )
    groups = tl.num_programs(0) // blocks
    place = (split.to(tl.int64) * groups + group) * queries + m
    _store_part(out_ptr, lse_ptr, place, is_query, out, peak, total, VALUE, BLOCK_VALUE)


@triton.jit
def _store_part(
    out_ptr,
    lse_ptr,
    place,  # (BLOCK_M,), index of each query among those of all splits
    is_query,
    out,
    peak,
    total,
    VALUE: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
):
    """Store one split's output and log-sum-exp; 0 and -inf if nothing is visible."""
    v = tl.arange(0, BLOCK_VALUE)
    safe = tl.where(total == 0.0, 1.0, total)
    lse = tl.where(total == 0.0, float("-inf"), (peak + tl.log2(safe)) * _LN2)
    tl.store(lse_ptr + place, lse, mask=is_query)
    out = out / safe[:, None]
    at, real = out_ptr + place[:, None] * VALUE + v, is_query[:, None] & (v < VALUE)
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def _attend_slots(
    q,  # (BLOCK_M, BLOCK_MAIN)
    q_tail,  # (BLOCK_M, BLOCK_TAIL); not read where TAIL is 0
    entries,  # address of slot 0
    entry_slot,
    visible,  # (BLOCK_M,)
    first,
    stop,
    scale,  # of scores that are exponents of two
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    VALUE: tl.constexpr,
    VALUE_START: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Go through the slots ``first`` to ``stop - 1``.

    Returns the weighted sum of values ``(BLOCK_M, BLOCK_VALUE)``, the largest exponent
    and the sum of weights ``(BLOCK_M,)``. The largest is 0 if nothing is visible.
    """
    c, t = tl.arange(0, q.shape[1]), tl.arange(0, q_tail.shape[1])
    v = tl.arange(0, BLOCK_VALUE)
    peak = tl.full((q.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((q.shape[0],), tl.float32)
    out = tl.zeros((q.shape[0], BLOCK_VALUE), tl.float32)
    for start in tl.range(first, stop, BLOCK_S):
        slot = start + tl.arange(0, BLOCK_S)
        # Slots from ``stop`` on may hold NaN: they are not read.
        written = (slot < stop)[:, None]
        at = entries + slot[:, None] * entry_slot
        keys = tl.load(at + c, mask=written & (c < MAIN), other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        if TAIL > 0:
            tail = tl.load(at + MAIN + t, mask=written & (t < TAIL), other=0.0)
            scores = tl.dot(q_tail, tl.trans(tail), scores, input_precision=PRECISION)
        seen = slot[None, :] < tl.minimum(visible, stop)[:, None]
        scores = tl.where(seen, scores * scale, float("-inf"))

        # 0 in place of a peak of -inf: -inf - -inf would be NaN.
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        level = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - level[:, None])
        shrink = tl.exp2(peak - level)
        total = total * shrink + tl.sum(weights, 1)
        values = keys
        if VALUE_START > 0:
            mask = written & (v < VALUE)
            values = tl.load(at + VALUE_START + v, mask=mask, other=0.0)
        weights = weights.to(values.dtype)
        out = tl.dot(weights, values, out * shrink[:, None], input_precision=PRECISION)
        peak = new_peak
    return out, tl.where(total == 0.0, 0.0, peak), total


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
    """Merge the splits of a query by their log-sum-exps.

    Programs: axis 0 is the query, axis 1 a block of columns.
    """
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
    """Merge attentions over two disjoint sets of entries by their log-sum-exps."""
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

"""The Triton kernel that puts a new token into a latent cache, in one launch.

A decoding step has one token a row, so its arithmetic is small and separate kernels
would spend their time being launched. A program handles ``BLOCK_N`` rows.

Letters: ``N`` rows, ``S`` slots, ``r`` latent width, ``d_R`` rotary width. Sums are
float32. Names in capitals are compile-time constants.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_kernel(
    raw_ptr,  # (N, r + d_R): the token's projection, neither normed nor rotated
    gain_ptr,  # (r,), weight of the LayerNorm
    shift_ptr,  # (r,), bias of the LayerNorm
    angle_ptr,  # (N or 1, d_R / 2), float32
    code_ptr,  # (N, r), contiguous: sinusoidal encoding of the chunk's number
    slot_ptr,  # (N,): slot of the cache that each row writes
    open_ptr,  # (N,): whether that slot holds earlier tokens of the chunk
    fc_c_ptr,  # (r / 4, r), contiguous: the hyper-network's weights of the chunk
    fc_c_bias_ptr,  # (r / 4,)
    fc_p_ptr,  # (r / 4, r), contiguous: its weights of the latent
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
    """Write each row's entry: the normalised, merged latent, then the rotated key."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    real = row < rows
    slot = tl.load(slot_ptr + row, mask=real, other=0)
    raw = raw_ptr + row[:, None] * raw_row
    entry = cache_ptr + row[:, None] * cache_row + slot[:, None] * cache_slot
    real_rows, c = real[:, None], tl.arange(0, BLOCK_RANK)
    in_latent = real_rows & (c < RANK)
    latent, mean, inverse_deviation = _layer_norm(
        raw, gain_ptr, shift_ptr, real_rows, epsilon, RANK, BLOCK_RANK
    )
    if MERGES:
        weight = _merge_weight(
            raw,
            code_ptr + row[:, None] * RANK,
            mean,
            inverse_deviation,
            gain_ptr,
            shift_ptr,
            fc_c_ptr,
            fc_c_bias_ptr,
            fc_p_ptr,
            fc_p_bias_ptr,
            real_rows,
            RANK,
            FEATURES,
            BLOCK_FEATURES,
            BLOCK_K,
            PRECISION,
        )
        latent = latent * weight[:, None]
        # The slot is read only if the chunk is open: else it may hold NaN.
        is_open = tl.load(open_ptr + row, mask=real, other=0) != 0
        carry = tl.load(entry + c, mask=in_latent & is_open[:, None], other=0.0)
        latent += carry.to(tl.float32)
    tl.store(entry + c, latent.to(cache_ptr.dtype.element_ty), mask=in_latent)

    if ROPE > 0:
        angle = angle_ptr + row[:, None] * angle_row
        _write_rotated(raw + RANK, entry + RANK, angle, real_rows, ROPE, BLOCK_ROPE)


@triton.jit
def _layer_norm(
    raw, gain_ptr, shift_ptr, real, epsilon, RANK: tl.constexpr, BLOCK: tl.constexpr
):
    """Normalise the latents at addresses ``raw (BLOCK_N, 1)``.

    Returns them ``(BLOCK_N, BLOCK)``, their means and their inverse standard deviations
    ``(BLOCK_N,)``.
    """
    c = tl.arange(0, BLOCK)
    x = tl.load(raw + c, mask=real & (c < RANK), other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / RANK
    centred = tl.where(real & (c < RANK), x - mean[:, None], 0.0)
    inverse_deviation = tl.rsqrt(tl.sum(centred * centred, 1) / RANK + epsilon)
    gain = tl.load(gain_ptr + c, mask=c < RANK, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + c, mask=c < RANK, other=0.0).to(tl.float32)
    return centred * inverse_deviation[:, None] * gain + shift, mean, inverse_deviation


@triton.jit
def _merge_weight(
    raw,  # addresses of the rows (BLOCK_N, 1), as is code
    code,
    mean,  # (BLOCK_N,), of the LayerNorm
    inverse_deviation,  # (BLOCK_N,)
    gain_ptr,
    shift_ptr,
    fc_c_ptr,
    fc_c_bias_ptr,
    fc_p_ptr,
    fc_p_bias_ptr,
    real,  # (BLOCK_N, 1)
    RANK: tl.constexpr,
    FEATURES: tl.constexpr,
    BLOCK_FEATURES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the merge weights ``sigmoid(<F_c pe, F_p c>)``, ``(BLOCK_N,)``.

    The products go through tiles of the latent, which is normalised again tile by tile:
    loading it twice takes fewer registers than one product over all of it.
    """
    f = tl.arange(0, BLOCK_FEATURES)
    of_chunk = tl.zeros((mean.shape[0], BLOCK_FEATURES), tl.float32)
    of_latent = tl.zeros((mean.shape[0], BLOCK_FEATURES), tl.float32)
    for start in tl.range(0, RANK, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        pe = tl.load(code + k, mask=real & (k < RANK), other=0.0)
        part = tl.load(raw + k, mask=real & (k < RANK), other=0.0).to(tl.float32)
        gain = tl.load(gain_ptr + k, mask=k < RANK, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + k, mask=k < RANK, other=0.0).to(tl.float32)
        part = (part - mean[:, None]) * inverse_deviation[:, None] * gain + shift
        at = f[None, :] * RANK + k[:, None]
        known = (f < FEATURES)[None, :] & (k < RANK)[:, None]
        fc_c = tl.load(fc_c_ptr + at, mask=known, other=0.0)
        fc_p = tl.load(fc_p_ptr + at, mask=known, other=0.0)
        of_chunk = tl.dot(pe.to(fc_c.dtype), fc_c, of_chunk, input_precision=PRECISION)
        part = part.to(fc_p.dtype)
        of_latent = tl.dot(part, fc_p, of_latent, input_precision=PRECISION)
    of_chunk += tl.load(fc_c_bias_ptr + f, mask=f < FEATURES, other=0.0)
    of_latent += tl.load(fc_p_bias_ptr + f, mask=f < FEATURES, other=0.0)
    return tl.sigmoid(tl.sum(of_chunk * of_latent, 1))


@triton.jit
def _write_rotated(raw, key, angle, real, ROPE: tl.constexpr, BLOCK_ROPE: tl.constexpr):
    """Rotate the pairs (2k, 2k + 1) at addresses ``raw (BLOCK_N, 1)`` into ``key``."""
    p = tl.arange(0, BLOCK_ROPE)
    pair = real & (p < ROPE // 2)
    even = tl.load(raw + 2 * p, mask=pair, other=0.0).to(tl.float32)
    odd = tl.load(raw + 2 * p + 1, mask=pair, other=0.0).to(tl.float32)
    turn = tl.load(angle + p, mask=pair, other=0.0)
    cos, sin = tl.cos(turn), tl.sin(turn)
    kind = key.dtype.element_ty
    tl.store(key + 2 * p, (even * cos - odd * sin).to(kind), mask=pair)
    tl.store(key + 2 * p + 1, (even * sin + odd * cos).to(kind), mask=pair)

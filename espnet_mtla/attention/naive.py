"""The mathematics of every attention type with dense ``T x T`` matrices.

Read this file to learn what the attention types compute (arXiv 2505.13544;
equation numbers are the paper's). The tests compare every fast path with it; it shares
parameters and settings with them, and no code. Only tests import it. A row is unpadded,
``x (T, D)``: T tokens of D features. Loops are written out on purpose.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from espnet_mtla.attention.config import (
    LatentConfig,
    MultiheadConfig,
    TemporalLatentConfig,
)


def dense_attention(module: Any, x: Tensor) -> Tensor:
    """Return causal self-attention of one unpadded row, ``(T, D) -> (T, D)``.

    Args:
        module: attention of any registered type; only its parameters and ``settings``
            are read.

    Raises:
        TypeError: settings of a type without a dense version.
    """
    if isinstance(module.settings, MultiheadConfig):
        return dense_multihead(module, x)
    if isinstance(module.settings, LatentConfig):
        return dense_latent(module, x)
    raise TypeError(f"{type(module).__name__}: write its dense version in {__name__}")


def dense_multihead(module: Any, x: Tensor) -> Tensor:
    """Return MHA of one row, or GQA and MQA: several query heads share a key head."""
    config, tokens = module.settings, len(x)
    q = module.wq(x).view(tokens, config.num_heads, -1)
    k = module.wk(x).view(tokens, config.num_kv_heads, -1)
    v = module.wv(x).view(tokens, config.num_kv_heads, -1)
    if config.qk_norm:
        q = root_mean_square_norm(q, module.q_norm.weight, config.qk_norm_eps)
        k = root_mean_square_norm(k, module.k_norm.weight, config.qk_norm_eps)
    heads = []
    for head in range(config.num_heads):
        group = head * config.num_kv_heads // config.num_heads
        turned_q = rope(q[:, head], config.rope_base, config.rope_frequencies)
        turned_k = rope(k[:, group], config.rope_base, config.rope_frequencies)
        score = turned_q @ turned_k.T / math.sqrt(config.head_dim)
        weight = score.masked_fill(~visible_matrix(tokens, 1), -math.inf).softmax(-1)
        heads.append(weight @ v[:, group])
    return module.wo(torch.cat(heads, dim=-1))


def dense_latent(module: Any, x: Tensor) -> Tensor:
    """Return MLA or, with the settings of MTLA, MTLA of one row."""
    config, tokens = module.settings, len(x)
    if config.q_lora_rank == 0:
        q = module.wq(x)
    else:
        q = module.wq_b(module.q_norm(module.wq_a(x)))
    q = q.view(tokens, config.num_heads, config.qk_head_dim)
    latent, k_rope = module.wkv_a(x).split(
        [config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
    )
    latent = module.kv_norm(latent)
    merged = latent
    visible = visible_matrix(tokens, 1)
    if isinstance(config, TemporalLatentConfig):
        merged = merge_matrix(module, latent) @ latent
        visible = visible_matrix(tokens, config.down_rate, config.offset)
        if config.raw_window > 0:  # 2 T columns: merged entries, then raw tokens
            visible = windowed_matrix(
                tokens, config.down_rate, config.offset, config.raw_window
            )
            merged = torch.cat((merged, latent))
    turn = (config.rope_base, config.rope_frequencies)
    k_rope = rope(k_rope, *turn)
    k_rope = k_rope.repeat(len(merged) // tokens, 1)
    up = module.wkv_b.weight.view(config.num_heads, -1, config.kv_lora_rank)
    heads = []
    for head in range(config.num_heads):
        w_k, w_v = up[head].split([config.qk_nope_head_dim, config.v_head_dim])
        q_nope, q_rope = q[:, head].split(
            [config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1
        )
        score = q_nope @ (merged @ w_k.T).T + rope(q_rope, *turn) @ k_rope.T
        score = score / math.sqrt(config.qk_head_dim)
        weight = score.masked_fill(~visible, -math.inf).softmax(-1)
        heads.append(weight @ (merged @ w_v.T))
    return module.wo(torch.cat(heads, dim=-1))


def merge_matrix(module: Any, latent: Tensor) -> Tensor:
    """Return ``M (T, T)``; row i of ``M @ latent`` is the running sum at token i.

    ``M[i, j] = w_j`` where ``j <= i`` lies in the chunk of i, else 0 (eq. 9 to 13).
    The first chunk lacks ``offset`` tokens.
    The hyper-network gives ``w_j = sigmoid(fc_c(e) . fc_p(c_j))`` from the latent
    ``c_j`` and the sinusoidal encoding ``e`` of the chunk's number.
    """
    tokens, stride = len(latent), module.settings.down_rate
    offset = module.settings.offset
    rank, net = module.settings.kv_lora_rank, module.hypernet_down
    matrix = []
    for i in range(tokens):
        row = []
        for j in range(tokens):
            chunk = (j + offset) // stride
            if j <= i and chunk == (i + offset) // stride:
                code = torch.zeros(rank, dtype=latent.dtype)
                for k in range(rank // 2):
                    angle = chunk / 10000 ** (2 * k / rank)
                    code[2 * k], code[2 * k + 1] = math.sin(angle), math.cos(angle)
                row.append(torch.sigmoid(net.fc_c(code) @ net.fc_p(latent[j])))
            else:
                row.append(latent.new_zeros(()))
        matrix.append(torch.stack(row))
    return torch.stack(matrix)


def visible_matrix(tokens: int, stride: int, offset: int = 0) -> Tensor:
    """Return the stride-aware causal mask ``(T, T)``: finished chunks, and oneself.

    >>> visible_matrix(4, 2).int().tolist()
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    >>> visible_matrix(4, 2, offset=1).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    return torch.tensor(
        [
            [
                j == i or (j < i and (j + offset + 1) % stride == 0)
                for j in range(tokens)
            ]
            for i in range(tokens)
        ]
    )


def windowed_matrix(tokens: int, stride: int, offset: int, window: int) -> Tensor:
    """Return the mask ``(T, 2 T)`` with a raw window: merged entries, then raw tokens.

    A chunk is seen merged, as the entry of its last token, if that token is at least
    ``window`` tokens older than the query. The tokens of all other chunks are seen raw.

    >>> windowed_matrix(5, 2, offset=0, window=2)[4].int().tolist()  # {0, 1} merged
    [0, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    >>> windowed_matrix(5, 2, offset=0, window=2)[2].int().tolist()  # none merged
    [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    """
    rows = []
    for i in range(tokens):
        merged, raw = [False] * tokens, [False] * tokens
        for j in range(i + 1):
            last = j
            while (last + offset + 1) % stride != 0:
                last += 1
            if i - last >= window:
                merged[last] = True
            else:
                raw[j] = True
        rows.append(merged + raw)
    return torch.tensor(rows)


def root_mean_square_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide ``x (..., d)`` by its root mean square, and multiply by ``weight (d,)``.

    >>> root_mean_square_norm(torch.tensor([3.0, 4.0]), torch.tensor([5.0, 10.0]), 0.0)
    tensor([ 4.2426, 11.3137])
    """
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rope(
    x: Tensor, base: float, frequencies: tuple[float, ...] | None = None
) -> Tensor:
    """Rotate the pairs of ``x (T, d)`` by their position: each pair a complex number.

    ``frequencies``, radians per token of each pair, replace those of ``base``.

    >>> rope(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), base=10000.0)[1]  # by one radian
    tensor([0.5403, 0.8415])
    """
    dim = x.size(-1)
    pairs = torch.view_as_complex(x.reshape(len(x), dim // 2, 2))
    frequency = base ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    if frequencies is not None:
        frequency = torch.tensor(frequencies, dtype=x.dtype)
    angle = torch.arange(len(x), dtype=x.dtype)[:, None] * frequency
    rotated = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(rotated).flatten(1)


def dense_latents(
    q: Tensor,
    entries: Tensor,
    weight: Tensor,
    query_index: Tensor | None,
    stride: int,
    scale: float,
) -> Tensor:
    """Return attention ``(B, H, U, d_V)`` of U queries over T running entries.

    Args:
        q: ``(B, H, U, d_N + d_R)``.
        entries: merged latent and rotary key of each token, ``(B, T, r + d_R)``.
        weight: ``wkv_b.weight (H (d_N + d_V), r)``.
        query_index: each query's position in the row, ``(B, U)``; None: ``U = T``.
    """
    heads, tokens, latent = q.size(1), entries.size(1), weight.size(1)
    expanded = entries[..., :latent] @ weight.T
    expanded = expanded.unflatten(-1, (heads, -1)).transpose(1, 2)
    k_rope = entries[:, None, :, latent:].expand(-1, heads, -1, -1)
    nope = q.size(-1) - k_rope.size(-1)
    k, v = torch.cat((expanded[..., :nope], k_rope), dim=-1), expanded[..., nope:]
    visible = visible_matrix(tokens, stride)
    visible = visible[None] if query_index is None else visible[query_index]
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~visible[:, None], -math.inf)
    return scores.softmax(-1) @ v

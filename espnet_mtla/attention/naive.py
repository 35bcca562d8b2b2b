"""Attention written down as the paper has it: T x T matrices, one row at a time.

Slow and plainly right; it shares nothing with the package but the parameters. ``x`` is
one unpadded row ``(T, D)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_attention(module: torch.nn.Module, x: Tensor) -> Tensor:
    """Causal self-attention of all tokens of one row, ``(T, D) -> (T, D)``."""
    if hasattr(module, "wkv_a"):
        return dense_latent(module, x)
    return dense_multihead(module, x)


def dense_multihead(module: torch.nn.Module, x: Tensor) -> Tensor:
    config, tokens = module.settings, len(x)
    q = module.wq(x).view(tokens, config.num_heads, -1)
    k = module.wk(x).view(tokens, config.num_kv_heads, -1)
    v = module.wv(x).view(tokens, config.num_kv_heads, -1)
    heads = []
    for head in range(config.num_heads):
        group = head * config.num_kv_heads // config.num_heads
        score = (
            rope(q[:, head], config.rope_base) @ rope(k[:, group], config.rope_base).T
        )
        score = score / math.sqrt(config.head_dim)
        future = torch.ones(tokens, tokens).triu(1).bool()
        heads.append(score.masked_fill(future, -math.inf).softmax(-1) @ v[:, group])
    return module.wo(torch.cat(heads, dim=-1))


def dense_latent(module: torch.nn.Module, x: Tensor) -> Tensor:
    config, tokens = module.settings, len(x)
    stride = getattr(config, "down_rate", None)
    if config.q_lora_rank == 0:
        q = module.wq(x)
    else:
        q = module.wq_b(module.q_norm(module.wq_a(x)))
    q = q.view(tokens, config.num_heads, config.qk_head_dim)
    latent, k_rope = module.wkv_a(x).split(
        [config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
    )
    latent = module.kv_norm(latent)
    merged = latent if stride is None else merge_matrix(module, latent) @ latent
    visible = visible_matrix(tokens, stride or 1)
    k_rope = rope(k_rope, config.rope_base)
    up = module.wkv_b.weight.view(config.num_heads, -1, config.kv_lora_rank)
    heads = []
    for head in range(config.num_heads):
        w_k, w_v = up[head].split([config.qk_nope_head_dim, config.v_head_dim])
        q_nope, q_rope = q[:, head].split(
            [config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1
        )
        score = q_nope @ (merged @ w_k.T).T + rope(q_rope, config.rope_base) @ k_rope.T
        score = score / math.sqrt(config.qk_head_dim)
        weight = score.masked_fill(~visible, -math.inf).softmax(-1)
        heads.append(weight @ (merged @ w_v.T))
    return module.wo(torch.cat(heads, dim=-1))


def merge_matrix(module: torch.nn.Module, latent: Tensor) -> Tensor:
    """``M[i, j] = w_j`` where j <= i is of i's own chunk, else 0 (eq. 9 to 13)."""
    tokens, stride = len(latent), module.settings.down_rate
    rank, net = module.settings.kv_lora_rank, module.hypernet_down
    matrix = []
    for i in range(tokens):
        row = []
        for j in range(tokens):
            if j <= i and j // stride == i // stride:
                code = torch.zeros(rank, dtype=latent.dtype)
                for k in range(rank // 2):
                    angle = (j // stride) / 10000 ** (2 * k / rank)
                    code[2 * k], code[2 * k + 1] = math.sin(angle), math.cos(angle)
                row.append(torch.sigmoid(net.fc_c(code) @ net.fc_p(latent[j])))
            else:
                row.append(latent.new_zeros(()))
        matrix.append(torch.stack(row))
    return torch.stack(matrix)


def visible_matrix(tokens: int, stride: int) -> Tensor:
    """The stride-aware causal mask: finished chunks of the past, and oneself."""
    return torch.tensor(
        [
            [j == i or (j < i and (j + 1) % stride == 0) for j in range(tokens)]
            for i in range(tokens)
        ]
    )


def rope(x: Tensor, base: float) -> Tensor:
    """``(T, d)`` as complex pairs turned by position."""
    dim = x.size(-1)
    pairs = torch.view_as_complex(x.reshape(len(x), dim // 2, 2))
    frequency = base ** (-torch.arange(0, dim, 2, dtype=x.dtype) / dim)
    angle = torch.arange(len(x), dtype=x.dtype)[:, None] * frequency
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(1)


def dense_latents(
    q: Tensor,
    entries: Tensor,
    weight: Tensor,
    rank: Tensor | None,
    stride: int,
    scale: float,
) -> Tensor:
    """Attention of ``q (B, H, U, d)`` over running entries, by a mask ``(U, T)``."""
    heads, tokens, latent = q.size(1), entries.size(1), weight.size(1)
    expanded = entries[..., :latent] @ weight.T
    expanded = expanded.unflatten(-1, (heads, -1)).transpose(1, 2)
    rope = entries[:, None, :, latent:].expand(-1, heads, -1, -1)
    nope = q.size(-1) - rope.size(-1)
    k, v = torch.cat((expanded[..., :nope], rope), dim=-1), expanded[..., nope:]
    visible = visible_matrix(tokens, stride)
    visible = visible[None] if rank is None else visible[rank]
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~visible[:, None], -math.inf)
    return scores.softmax(-1) @ v

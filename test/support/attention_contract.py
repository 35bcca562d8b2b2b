"""What every attention type must do, checked on any module in float64.

A new type is tested by calling these four functions with it, as
``test/attention/test_toy_type.py`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from espnet_mtla.attention import CausalAttention, QueryTokens

EXACT = {"rtol": 0.0, "atol": 1e-10}


def rows_of(module: CausalAttention, rows: int, tokens: int) -> Tensor:
    """Random rows ``(rows, tokens, D)``."""
    torch.manual_seed(0)
    return torch.randn(rows, tokens, module.settings.embed_dim, dtype=torch.float64)


def check_against_dense(
    module: CausalAttention,
    dense: Callable[[CausalAttention, Tensor], Tensor],
    atol: float = 1e-6,
) -> None:
    """Training equals ``dense(module, x (T, D))``: outputs and all gradients."""
    for tokens in range(1, 4 * module.layout.stride + 3):
        x = rows_of(module, 1, tokens).requires_grad_()
        leaves = [x, *module.parameters()]
        fast, slow = module.attend_all(x)[0], dense(module, x[0])
        torch.testing.assert_close(fast, slow, rtol=0, atol=atol)
        direction = torch.randn_like(slow)
        gradients = torch.autograd.grad((fast * direction).sum(), leaves)
        expected = torch.autograd.grad((slow * direction).sum(), leaves)
        torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=atol)


def check_cached_equals_training(module: CausalAttention) -> None:
    """Prefill, several tokens at once, and single steps give what training gives."""
    tokens = 6 * module.layout.stride + 5
    x = rows_of(module, 2, tokens)
    whole = module.attend_all(x)
    for prompt in range(1, 2 * module.layout.stride + 2):
        lengths, cuts = torch.full((2,), prompt), [prompt, prompt + 2, prompt + 5]
        out, cache = module.prefill(x[:, :prompt], lengths, tokens - prompt)
        pieces = [out, *(module.extend(x[:, a:b], cache) for a, b in pairwise(cuts))]
        for token in range(cuts[-1], tokens):
            pieces.append(module.extend(x[:, token : token + 1], cache))
        torch.testing.assert_close(torch.cat(pieces, 1), whole, **EXACT)


def check_rows_alone_and_together(module: CausalAttention) -> None:
    """A row gives the same alone and beside longer rows, with NaN as its padding."""
    lengths, stride = torch.tensor([3, 7, 4]), module.layout.stride
    x = rows_of(module, 3, 7 + 2 * stride)
    prompt = x[:, :7].clone()
    prompt[torch.arange(7) >= lengths[:, None]] = torch.nan
    _, cache = module.prefill(prompt, lengths, 2 * stride, attend_prompt=False)
    assert not cache.suffix[0, :, 1:].isnan().any()
    together = [module.extend(x[:, t : t + 1], cache) for t in range(7, x.size(1))]
    for row, length in enumerate(lengths):
        alone = torch.cat((x[row, :length], x[row, 7:]))[None]
        index = torch.arange(int(length), alone.size(1))[None]
        queries = QueryTokens(alone[:, length:], index)
        expected = module.attend_all(alone, queries)[0]
        torch.testing.assert_close(torch.cat(together, 1)[row], expected, **EXACT)


def check_cache_bytes(module: CausalAttention) -> None:
    """The bytes in use equal the formula, for shared and copied prompts."""
    for share in (True, False):
        lengths = torch.tensor([5, 8])
        x = rows_of(module, 2, 8)
        _, cache = module.prefill(x, lengths, capacity=4, attend_prompt=False)
        cache.fork(3, share)
        for tokens in range(5):
            formula = sum(
                module.cache_bytes(prompt, tokens, 3, share, itemsize=8)
                for prompt in lengths.tolist()
            )
            assert cache.used_nbytes == formula
            if tokens < 4:
                module.extend(rows_of(module, 6, 1), cache)

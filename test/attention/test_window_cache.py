"""The options ``raw_window`` and ``phase``: cache bytes, parameters, refusals."""

from __future__ import annotations

import pytest
import torch

from espnet_mtla.attention import CacheOptions, MultiheadTemporalLatentAttention
from espnet_mtla.errors import UserError
from test.attention.test_window import module_of, random_rows
from test.support.attention_types import HEADS, LATENT, WIDTH, make


@pytest.mark.parametrize(("stride", "window"), [(2, 8), (3, 5), (4, 1), (1, 3)])
def test_the_window_takes_a_constant_number_of_entries(
    stride: int, window: int
) -> None:
    plain, windowed = module_of(stride, 0, False), module_of(stride, window, False)
    room, each = window + stride - 1, (16 + 4) * 8
    for prompt, tokens, beam in ((40, 60, 1), (40, 60, 4), (3, 2, 2)):
        x = random_rows(1, prompt + tokens)
        used = []
        for module in (plain, windowed):
            length = torch.tensor([prompt])
            _, cache = module.prefill(x[:, :prompt], length, tokens, False)
            cache.fork(beam)
            for new in x[:, prompt:].split(1, dim=1):
                module.extend(new.expand(beam, -1, -1), cache)
            used.append(cache.used_nbytes)
            formula = module.cache_bytes(prompt, tokens, beam, itemsize=8)
            assert cache.used_nbytes == formula
            assert cache.used_nbytes <= cache.nbytes
        raw = min(prompt, room - 1) + beam * min(tokens, room)
        assert used[1] - used[0] == raw * each


@pytest.mark.parametrize("number_format", ["int8", "fp8"])
def test_a_cache_of_eight_bits(number_format: str) -> None:
    module, x = make("mtla_s2_w4"), random_rows(2, 24)
    outs, sizes = [], []
    for dtype in (None, number_format):
        options = CacheOptions(dtype=dtype)
        lengths = torch.tensor([9, 6])
        _, cache = module.prefill(x[:, :9], lengths, 15, False, options)
        cache.fork(2)
        steps = x[:, 9:].repeat_interleave(2, 0).split(1, dim=1)
        outs.append(torch.cat([module.extend(new, cache) for new in steps], 1))
        sizes.append(cache.used_nbytes)
        bytes_of = [module.cache_bytes(n, 15, 2, True, 8, options) for n in (9, 6)]
        assert cache.used_nbytes == sum(bytes_of)
    assert sizes[1] < 0.4 * sizes[0]
    error = (outs[0] - outs[1]).norm() / outs[0].norm()
    assert 0 < error < 0.05


# Compatibility and refusals ----------------------------------------------------------


def test_the_options_change_no_parameter() -> None:
    plain = module_of(2, 0, False).state_dict()
    other = module_of(2, 32, True).state_dict()
    assert {k: v.shape for k, v in plain.items()} == {
        k: v.shape for k, v in other.items()
    }


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"raw_window": -1}, "raw_window: -1 given"),
        ({"raw_window": 2.5}, r"raw_window: 2\.5 given"),
        ({"phase": 1}, "phase: 1 given"),
        ({"raw_window": 4, "cross_att": True}, "raw_window: 4 given, cross-attention"),
        ({"phase": True, "cross_att": True}, "phase: True given, cross-attention"),
    ],
)
def test_a_bad_option_is_named(option: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        MultiheadTemporalLatentAttention(WIDTH, HEADS, **LATENT, **option)

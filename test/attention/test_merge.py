"""Running sums and merge weights by hand."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_mtla.attention.merge import HyperNetwork, chunk_encoding, running_sums


@settings(max_examples=80)
@given(
    stride=st.integers(1, 5),
    starts=st.lists(st.integers(0, 11), min_size=1, max_size=4),
    tokens=st.integers(1, 12),
)
def test_running_sums_restart_at_every_chunk(
    stride: int, starts: list[int], tokens: int
) -> None:
    values = torch.randn(len(starts), tokens, 3, dtype=torch.float64)
    open_sum = torch.randn(len(starts), 3, dtype=torch.float64)
    sums = running_sums(values, stride, torch.tensor(starts), open_sum)
    for row, start in enumerate(starts):
        total = open_sum[row] if start % stride else torch.zeros(3, dtype=torch.float64)
        for t in range(tokens):
            if (start + t) % stride == 0:
                total = torch.zeros(3, dtype=torch.float64)
            total = total + values[row, t]
            torch.testing.assert_close(sums[row, t], total)


def test_half_precision_is_summed_in_float32() -> None:
    values = torch.full((1, 1000, 1), 0.1, dtype=torch.bfloat16)
    total = running_sums(values, 1000)[0, -1].item()
    assert abs(total - 1000 * values[0, 0].item()) < 0.5


def test_the_chunk_encoding_by_hand() -> None:
    code = chunk_encoding(torch.tensor([3]), 4)[0]
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(code, torch.tensor(expected))


def test_the_weight_is_the_sigmoid_of_the_inner_product() -> None:
    torch.manual_seed(0)
    net, latents = HyperNetwork(8), torch.randn(1, 5, 8)
    weights = net(latents, stride=2)
    for token, chunk in enumerate([0, 0, 1, 1, 2]):
        code = chunk_encoding(torch.tensor(chunk), 8)
        inner = net.fc_c(code) @ net.fc_p(latents[0, token])
        torch.testing.assert_close(weights[0, token, 0], 1 / (1 + torch.exp(-inner)))

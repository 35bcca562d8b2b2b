"""A decoding step on a GPU: with or without CUDA graphs, no waits, bytes as planned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.decoder.graphs import CudaRecorder, EagerSteps, RecordedSteps
from test.support.gpu_device import CUDA, NEEDS_GPU

pytestmark = NEEDS_GPU
KINDS = {
    "mha": ("mha", {}),
    "mqa": ("mqa", {}),
    "mla": ("mla", {}),
    "mtla_s2": ("mtla", {"down_rate": 2}),
    "mtla_s3": ("mtla", {"down_rate": 3}),
}
BEAM, PROMPTS = 5, [97, 40, 96]


def make(kind: str, dtype: torch.dtype = torch.bfloat16) -> DecoderOnlyTransformer:
    torch.manual_seed(1)
    attention, conf = KINDS[kind]
    config = DecoderConfig(100, 256, 3, 4, 512, 0.0, attention, conf)
    return DecoderOnlyTransformer(config).to(CUDA, dtype).eval()


def prompts(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(len(PROMPTS), max(PROMPTS), 256, generator=generator)
    return vectors.to(CUDA, dtype), torch.tensor(PROMPTS, device=CUDA)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any wait of the host for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("share", [True, False], ids=["shared", "private"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_recorded_steps_equal_single_launches(kind: str, share: bool) -> None:
    decoder = make(kind)
    states = [
        decoder.prefill(*prompts(), max_tokens=12, beam=BEAM, share_prompt=share)
        for _ in range(2)
    ]
    recorded = RecordedSteps(decoder, states[0], CudaRecorder())
    eager = EagerSteps(decoder, states[1])
    rows = len(PROMPTS) * BEAM
    for step in range(12):
        tokens = torch.arange(rows, device=CUDA) * 7 % 100
        logits = recorded.step(tokens)
        expected = eager.step(tokens)
        torch.testing.assert_close(logits, expected, rtol=3e-2, atol=3e-2)
        order = torch.arange(rows, device=CUDA).view(-1, BEAM).flip(1).flatten()
        for steps in (recorded, eager):
            steps.reorder(order)
        if step == 5:
            rows = 2 * BEAM
            for steps in (recorded, eager):
                steps.select(torch.tensor([2, 0], device=CUDA))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_step_does_not_wait_for_the_device(kind: str) -> None:
    decoder = make(kind)
    state = decoder.prefill(*prompts(), max_tokens=9, beam=BEAM)
    tokens = torch.zeros(len(PROMPTS) * BEAM, dtype=torch.long, device=CUDA)
    order = torch.arange(len(tokens), device=CUDA)
    decoder.step(tokens, state)  # compiles
    state.reorder(order)
    with no_waiting():
        for _ in range(3):
            decoder.step(tokens, state)
            state.reorder(order)
    recorded = RecordedSteps(decoder, state, CudaRecorder())
    with no_waiting():
        recorded.step(tokens)
        recorded.reorder(order)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_decoding_stays_near_float64(kind: str) -> None:
    """Teacher-forced: the step's logits against the training path in float64."""
    decoder = make(kind)
    exact = copy.deepcopy(decoder).to("cpu", torch.float64)
    vectors, lengths = prompts()
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 100, (len(PROMPTS), 8), generator=generator)
    expected = exact(vectors.cpu().double(), lengths.cpu(), tokens)
    state = decoder.prefill(vectors, lengths, max_tokens=8)
    logits = [decoder.step(token.to(CUDA), state) for token in tokens.unbind(1)]
    found = torch.stack(logits, 1).double().cpu()
    assert (found - expected).norm() / expected.norm() < 2e-2


@pytest.mark.parametrize("share", [True, False], ids=["shared", "private"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_cache_takes_the_bytes_it_says(kind: str, share: bool) -> None:
    decoder = make(kind)
    vectors = torch.randn(4, 600, 256, device=CUDA, dtype=torch.bfloat16)
    lengths = torch.full((4,), 600, device=CUDA)

    def fill() -> object:
        return decoder.prefill(
            vectors, lengths, max_tokens=59, beam=20, share_prompt=share
        )

    fill()  # workspaces and compiled kernels stay
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    state = fill()
    torch.cuda.synchronize()
    taken = torch.cuda.memory_allocated() - before
    # Blocks are rounded up to 512 bytes; the timeline is a few of them.
    assert state.nbytes <= taken <= state.nbytes + 512 * 64
    formula = 4 * decoder.cache_bytes(600, 59, 20, share, itemsize=2)
    scratch = sum(part.nbytes for part in state.scratch)
    assert formula <= state.nbytes - scratch <= 1.1 * formula

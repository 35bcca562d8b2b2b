"""Recorded steps must not depend on Python values or on the lengths of rows.

On the CPU a tape of operations replaces the CUDA graph; test/gpu has the real one.
"""

from __future__ import annotations

import logging

import pytest
import torch

from espnet_mtla.attention.decoding.backend import torch as torch_backend
from espnet_mtla.decoder import DecoderOnlyTransformer
from espnet_mtla.decoder.graphs import EagerSteps, RecordedSteps, steps_of
from espnet_mtla.errors import UserError
from test.support.attention_types import WIDTH
from test.support.op_tape import record
from test.support.tiny_decoder import VOCAB, make

BEAM, LENGTHS = 3, [7, 4, 5]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the PyTorch back-end looks how many slots are visible."""
    monkeypatch.setattr(torch_backend, "_bounds", lambda _, slots: (0, slots, 0))


def prefilled(decoder: DecoderOnlyTransformer, share: bool = True, tokens: int = 8):
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randn(len(LENGTHS), 7, WIDTH, generator=generator).double()
    lengths = torch.tensor(LENGTHS)
    return decoder.prefill(
        prompt, lengths, max_tokens=tokens, beam=BEAM, share_prompt=share
    )


@pytest.mark.parametrize("share", [True, False], ids=["shared", "private"])
@pytest.mark.parametrize(
    "kind",
    [
        *(
            "gqa",
            "mla",
            "mtla_s2",
            "mtla_s3",
            "llama/gqa_llama",
            "llama/mtla_converted",
        ),
        *("mtla_s2_w4", "mtla_s2_w3_phase"),
    ],
)
@torch.no_grad()
def test_a_recording_does_what_single_steps_do(kind: str, share: bool, caplog) -> None:
    """Beams fork and swap, utterances leave and join: logits are those of eager steps.

    One of the two that join takes the place of another, the other one is appended.
    """
    decoder, generator = make(kind, "fixed"), torch.Generator().manual_seed(6)
    state = prefilled(decoder, share)
    for cache in state.caches:  # unwritten memory, past the prompt's open chunk
        cache.suffix[:, :, 1:] = float("nan")
    recorded = RecordedSteps(decoder, state, record)
    eager = EagerSteps(decoder, prefilled(decoder, share))
    joining = [
        RecordedSteps(decoder, prefilled(decoder, share), record),
        EagerSteps(decoder, prefilled(decoder, share)),
    ]
    batch = len(LENGTHS)
    for step in range(8):
        tokens = torch.randint(0, VOCAB, (batch * BEAM,), generator=generator)
        expected = eager.step(tokens)
        torch.testing.assert_close(recorded.step(tokens), expected, rtol=0, atol=1e-10)
        parents = torch.randint(0, BEAM, (batch, BEAM), generator=generator)
        rows = (torch.arange(batch).unsqueeze(1) * BEAM + parents).flatten()
        for steps in (recorded, eager):
            steps.reorder(rows)
            if step == 3:
                steps.select(torch.tensor([2, 0]))
            if step == 5:
                other = joining[steps is eager]
                other.select(torch.tensor([1, 0]))
                steps.join(other, torch.tensor([0, 2]))
        batch = len(eager.state.timeline.num_tokens) // BEAM
    assert recorded.state.used_nbytes == eager.state.used_nbytes
    assert not caplog.messages  # it was recorded


@torch.no_grad()
def test_a_full_cache_refuses_a_recorded_step_too() -> None:
    decoder = make("mtla_s2", "fixed")
    steps = RecordedSteps(decoder, prefilled(decoder, tokens=1), record)
    tokens = torch.zeros(len(LENGTHS) * BEAM, dtype=torch.long)
    steps.step(tokens)
    steps.select(torch.tensor([0, 2]))  # recording tries a step: there is no room
    with pytest.raises(IndexError, match="room for 1 tokens"):
        steps.step(tokens[: 2 * BEAM])


@torch.no_grad()
def test_what_cannot_be_recorded_runs_step_by_step_and_says_so(caplog) -> None:
    decoder = make("mtla_s2", "fixed")

    def broken(step, undo):
        del undo
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    refused = "cuda_graphs: always given, but operation not permitted"
    with pytest.raises(UserError, match=refused):
        RecordedSteps(decoder, prefilled(decoder), broken, required=True)
    steps = RecordedSteps(decoder, prefilled(decoder), broken)
    assert caplog.messages == [
        "no CUDA graph, steps are launched one by one: "
        "operation not permitted when stream is capturing"
    ]
    eager = EagerSteps(decoder, prefilled(decoder))
    tokens = torch.arange(len(LENGTHS) * BEAM)
    for _ in range(3):
        torch.testing.assert_close(steps.step(tokens), eager.step(tokens))
    assert steps.state.timeline.appended == 3


def test_running_out_of_memory_is_for_the_caller_to_answer() -> None:
    decoder = make("mla", "fixed")

    def full(step, undo):
        raise torch.OutOfMemoryError(f"{step} {undo}")

    with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
        RecordedSteps(decoder, prefilled(decoder), full)


def test_steps_are_recorded_on_a_gpu_alone(caplog) -> None:
    decoder = make("mla", "fixed")
    caplog.set_level(logging.INFO)
    assert isinstance(steps_of(decoder, prefilled(decoder), "auto"), EagerSteps)
    assert isinstance(steps_of(decoder, prefilled(decoder), "never"), EagerSteps)
    with pytest.raises(
        UserError, match="cuda_graphs: always given, but the decoder is"
    ):
        steps_of(decoder, prefilled(decoder), "always")

"""Batches shrink to the memory that is free; a profile's parts add up."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

from espnet_mtla.decoder import DecoderConfig, DecoderOnlyTransformer
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.memory import (
    batch_frames,
    check_fits,
    free_bytes,
    prompt_frames,
    total_bytes,
)
from espnet_mtla.recognise.profile import Profile
from espnet_mtla.search.options import DecodeOptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained() -> SimpleNamespace:
    config = DecoderConfig(20, 32, num_layers=2, num_heads=4, ffn_dim=16)
    decoder = DecoderOnlyTransformer(config).eval()
    model = SimpleNamespace(
        decoder=decoder,
        frontend=SimpleNamespace(hop_length=160),
        encoder=TransformerEncoder(8, output_size=8, attention_heads=2, num_blocks=1),
        projector=SimpleNamespace(stack=1),
    )
    return SimpleNamespace(model=model, fs=16000, unit="second")


def test_less_memory_and_more_beams_mean_smaller_batches(
    trained: SimpleNamespace,
) -> None:
    options = DecodeOptions(beam_size=5, batch_frames=16000)

    def frames(free: int | None, options: DecodeOptions = options) -> int:
        return batch_frames(trained, options, 800, free)

    assert frames(2**40) == frames(None) == 16000
    tight = frames(2**23)
    assert 800 <= tight < 16000 and tight % 800 == 0
    assert frames(2**23, DecodeOptions(beam_size=20)) < tight
    assert frames(1) == 800  # one utterance is always tried
    parts = SimpleNamespace(decoder=trained.model.decoder)
    text = SimpleNamespace(model=parts, unit="token")  # all tokens stay
    assert batch_frames(text, options, 800, 2**23) < tight


def test_what_no_memory_holds_is_refused(trained: SimpleNamespace) -> None:
    check_fits(trained, DecodeOptions(beam_size=5), 800, total=2**40)
    check_fits(trained, DecodeOptions(beam_size=10_000), 10**6, total=None)
    wide = DecodeOptions(beam_size=10_000, max_length_ratio=-100_000)
    with pytest.raises(UserError, match="beam_size 10000 with at most 100000 tokens"):
        check_fits(trained, wide, 800, total=2**34)
    assert total_bytes(CPU) > 2**28
    encoder = SimpleNamespace(model=SimpleNamespace(decoder=None))
    check_fits(encoder, wide, 800, total=1)


@pytest.mark.parametrize(
    ("hop", "layer", "stack", "expected"),
    [(160, "conv2d", 1, 200), (160, "conv2d", 2, 100), (320, "conv2d1", 1, 400)],
)
def test_memory_is_planned_for_the_frames_that_there_are(
    trained: SimpleNamespace, hop: int, layer: str, stack: int, expected: int
) -> None:
    """8 s of sound: 800 frames of 10 ms."""
    sizes = {"output_size": 8, "attention_heads": 2, "num_blocks": 1}
    model = SimpleNamespace(
        decoder=trained.model.decoder,
        frontend=SimpleNamespace(hop_length=hop),
        encoder=TransformerEncoder(30, input_layer=layer, **sizes),
        projector=SimpleNamespace(stack=stack),
    )
    asked = SimpleNamespace(model=model, fs=16000, unit="second")
    assert prompt_frames(asked, 800) == expected


def test_free_memory_is_told_here() -> None:
    assert free_bytes(CPU) > 2**20


def test_parts_leave_out_what_is_inside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = SimpleNamespace(perf_counter=count().__next__)  # a second a look
    monkeypatch.setattr("espnet_mtla.recognise.profile.time", ticks)
    profile = Profile(CPU)
    inner = profile.timed("attention", lambda: None)
    with profile.part("all else"):
        with profile.part("search"):
            inner()
        inner()
    assert profile.calls["attention"] == 2
    found = {name: s for name, s in profile.seconds.items() if s}
    assert found == {"attention": 2, "search": 2, "all else": 3}
    assert "attention" in profile.table() and "CTC" not in profile.table()


def test_watching_ends_without_a_trace(trained: SimpleNamespace) -> None:
    decoder = trained.model.decoder
    trained.model.extract_feats = trained.model.encode = print
    profile = Profile(CPU)
    prompt, lengths = torch.randn(1, 5, 32), torch.tensor([5])
    with torch.no_grad(), profile.watching(trained):
        state = decoder.prefill(prompt, lengths, max_tokens=2)
        decoder.step(torch.tensor([1]), state)
    assert profile.calls["attention"] == profile.calls["feed-forward"] == 2
    assert profile.calls["prefill"] == profile.calls["rest of decoder"] == 1
    with torch.no_grad():
        decoder.step(torch.tensor([1]), state)
    assert profile.calls["attention"] == 2
    assert "step" not in vars(decoder)

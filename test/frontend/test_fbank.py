"""Online filter banks: Kaldi's numbers, alike in any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.compliance import kaldi

from espnet_mtla.frontend.fbank import FbankFrontend


def sounds(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (B, longest), garbage behind each row's end, and the lengths."""
    generator = torch.Generator().manual_seed(seed)
    speech = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    speech[0, : lengths[0] // 3] = 0.0  # silence has its own branch, the energy floor
    return speech, torch.tensor(lengths)


@pytest.mark.parametrize("fs", [8000, 16000, 44100])
@pytest.mark.parametrize("n_mels", [23, 80])
def test_equals_torchaudio(fs: int, n_mels: int) -> None:
    speech, lengths = sounds([fs, fs // 2 + 17])
    features, counts = FbankFrontend(fs=fs, n_mels=n_mels)(speech, lengths)
    for row, count, samples in zip(features, counts, lengths, strict=True):
        one = speech[[0 if samples == fs else 1], :samples] * 32768
        wanted = kaldi.fbank(one, num_mel_bins=n_mels, sample_frequency=fs, dither=0.0)
        assert len(wanted) == count
        torch.testing.assert_close(row[:count], wanted, atol=1e-4, rtol=0)
        assert not row[count:].any()


@settings(max_examples=25)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_alone_or_in_a_batch(lengths: list[int]) -> None:
    frontend = FbankFrontend(fs=8000, n_mels=10)
    speech, sizes = sounds(lengths)
    features, counts = frontend(speech, sizes)
    for row, size in enumerate(lengths):
        alone, count = frontend(speech[[row], :size], sizes[[row]])
        assert counts[row] == count == max(0, 1 + (size - 200) // 80)
        torch.testing.assert_close(
            features[row, : int(count)], alone[0, : int(count)], atol=1e-5, rtol=0
        )


def test_settings_that_make_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="too short for fs"):
        FbankFrontend(fs=8000, frame_shift=0.01)


def test_the_rate_can_be_written_as_espnet_does() -> None:
    assert FbankFrontend(fs="16k").window == 400
    assert FbankFrontend(fs=16000).state_dict() == {}

"""Inputs of pretrained encoders, as Transformers' feature extractors compute them.

Each takes unpadded rows of samples, on any device, and returns a padded batch that is
zero after each row's end. Settings and filters come from the extractor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from espnet_mtla.errors import UserError
from espnet_mtla.frontend.lengths import reflect_tail, valid_frames
from espnet_mtla.tensor_modes import full_precision


class Waveform:
    """Samples, normalised to mean 0 and variance 1 where the checkpoint says so.

    Args:
        extractor: Transformers' ``Wav2Vec2FeatureExtractor``.
    """

    def __init__(self, extractor: Any) -> None:
        self.rate = int(extractor.sampling_rate)
        self.normalise = bool(extractor.do_normalize)

    def __call__(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return samples (B, L) and their numbers (B,)."""
        if self.normalise:
            rows = [
                (row - row.mean()) / (row.var(correction=0) + 1e-7).sqrt()
                for row in rows
            ]
        return pad_sequence(list(rows), batch_first=True), _lengths(rows)


class WhisperLogMel:
    """Whisper's log mel energies, of each row's own length.

    The STFT is centred and reflects a row at both its ends. The last of its
    ``1 + n // hop`` frames is dropped. Energies are clipped 8 decades below the largest
    one of the row.

    Args:
        extractor: Transformers' ``WhisperFeatureExtractor``.
    """

    def __init__(self, extractor: Any) -> None:
        if extractor.dither:
            raise UserError(
                f"model: dither {extractor.dither} in {type(extractor).__name__}: "
                "features would be random; set it to 0 in preprocessor_config.json"
            )
        self.rate = int(extractor.sampling_rate)
        self.n_fft, self.hop = int(extractor.n_fft), int(extractor.hop_length)
        self.window_samples = int(extractor.n_samples)
        self.n_mels = int(extractor.feature_size)
        self.filters = torch.from_numpy(extractor.mel_filters).float().T.contiguous()

    def frames(self, samples: int) -> int:
        """Return the number of frames of a row; 0 for less than one window."""
        return samples // self.hop if samples >= self.n_fft else 0

    @full_precision
    def __call__(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log mel energies (B, mels, N) and numbers of frames (B,)."""
        speech, lengths = pad_sequence(list(rows), batch_first=True), _lengths(rows)
        counts = lengths // self.hop
        half = self.n_fft // 2
        speech = torch.cat([speech[:, 1 : half + 1].flip(1), speech], 1)
        speech = reflect_tail(speech, lengths + half, half)
        window = torch.hann_window(self.n_fft, device=speech.device)
        spectrum = torch.stft(
            speech,
            *(self.n_fft, self.hop),
            window=window,
            center=False,
            return_complex=True,
        )
        power = (spectrum[..., : int(counts.max())].abs() ** 2).contiguous()
        mel = self.filters.to(speech.device) @ power
        log = mel.clamp(min=1e-10).log10()
        padding = ~valid_frames(counts, log.size(2)).unsqueeze(1)  # (B, 1, N)
        largest = log.masked_fill(padding, -torch.inf).amax((1, 2), keepdim=True)
        log = (log.maximum(largest - 8.0) + 4.0) / 4.0
        return log.masked_fill(padding, 0.0), counts


class StackedKaldiMel:
    """Kaldi's log mel energies, normalised by row and filter, ``stride`` frames joined.

    Frames at a row's end that fill no group are dropped.

    Args:
        extractor: Transformers' ``SeamlessM4TFeatureExtractor``.
    """

    frame, hop, n_fft = 400, 160, 512
    """Samples; constants of the extractor."""

    def __init__(self, extractor: Any) -> None:
        self.rate = int(extractor.sampling_rate)
        self.stride = int(extractor.stride)
        self.width = int(extractor.num_mel_bins) * self.stride
        self.filters = torch.from_numpy(extractor.mel_filters)  # (n_fft / 2 + 1, mels)
        self.window = torch.from_numpy(extractor.window)

    def frames(self, samples: int) -> int:
        """Return the number of joined frames of a row."""
        return max(0, 1 + (samples - self.frame) // self.hop) // self.stride

    @full_precision
    def __call__(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return features (B, T, mels x stride) and numbers of joined frames (B,)."""
        features = [self._features(row) for row in rows]
        return pad_sequence(features, batch_first=True), _lengths(features)

    def _features(self, row: Tensor) -> Tensor:
        """Return features (T, mels x stride) of samples (n,).

        Precisions are those of the extractor: the logarithm of small energies would
        differ with others.
        """
        filters, window = self.filters.to(row.device), self.window.to(row.device)
        frames = row.double().unfold(0, self.frame, self.hop) * 2.0**15  # (N, frame)
        frames = frames - frames.mean(1, keepdim=True)
        before = pad(frames, (1, 0), mode="replicate")[:, :-1]
        frames = (frames - 0.97 * before) * window
        spectrum = torch.fft.rfft(frames, self.n_fft).to(torch.complex64)
        power = spectrum.to(torch.complex128).abs() ** 2
        log = (power @ filters).clamp(min=1.192092955078125e-07).log().float()
        log = (log - log.mean(0)) / (log.var(0) + 1e-7).sqrt()
        whole = len(log) // self.stride * self.stride
        return log[:whole].reshape(-1, self.width)


def _lengths(rows: Sequence[Tensor]) -> Tensor:
    """Return the lengths of rows as a tensor on their device."""
    return torch.tensor([len(row) for row in rows], device=rows[0].device)

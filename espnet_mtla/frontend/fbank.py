"""Kaldi's log mel filter-bank features, for a whole batch at once, on any device."""

from __future__ import annotations

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor, nn

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.tensor_modes import float32_default

# Kaldi's samples are 16-bit integers, those of this package are in [-1, 1].
_FULL_SCALE = 32768.0
_PREEMPHASIS = 0.97
_SMALLEST = torch.finfo(torch.float32).eps


Tables = tuple[Tensor, Tensor]
"""Mel filters ``(n_fft / 2 + 1, mels)`` and window ``(window,)``."""


class FbankFrontend(AbsFrontend):
    """Compute the log mel energies of Kaldi's ``compute-fbank-feats --dither=0``.

    Every frame lies completely inside its utterance (Kaldi's ``snip-edges``), so
    padding never changes it. An utterance of L samples has
    ``max(0, 1 + (L - window) // shift)`` frames, independent of the batch. Samples in
    half precision are converted to single precision.

    Args:
        fs: sampling rate in Hz, a number or a string such as "16k".
        n_mels: number of mel filters.
        frame_length, frame_shift: milliseconds.
        fmin, fmax: range of the filters in Hz. A ``fmax`` of 0 or below is relative to
            half the sampling rate.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        n_mels: int = 80,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        fmin: float = 20.0,
        fmax: float = 0.0,
    ) -> None:
        super().__init__()
        import humanfriendly

        rate = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        self.n_mels = n_mels
        self.window = int(rate * frame_length / 1000)
        self.hop_length = int(rate * frame_shift / 1000)
        if self.window < 2 or self.hop_length < 1:
            raise ValueError("frame_length and frame_shift: too short for fs")
        self.n_fft = 1 << (self.window - 1).bit_length()
        self._mel = (n_mels, self.n_fft, float(rate), fmin, fmax)
        # Not buffers: after building on the meta device or ``to_empty``, a buffer that
        # is in no checkpoint would stay uninitialised.
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}
        self._add_tables(torch.device("cpu"), torch.float32)  # checks the settings

    def output_size(self) -> int:
        """Return the number of features per frame."""
        return self.n_mels

    def frames(self, samples: Tensor) -> Tensor:
        """Return numbers of frames from numbers of samples; any shape."""
        return ((samples - self.window) // self.hop_length + 1).clamp(min=0)

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features of a batch.

        Args:
            speech: (B, L) samples in [-1, 1].
            lengths: (B,) numbers of valid samples.
        Returns:
            Features (B, T, n_mels), zero in padding, and numbers of frames (B,).
        """
        counts = self.frames(lengths)
        speech = speech if speech.dtype == torch.float64 else speech.float()
        if speech.size(1) < self.window:
            return speech.new_zeros(len(speech), 1, self.n_mels), counts
        key = speech.device, speech.dtype
        banks, taper = self._tables.get(key) or self._add_tables(*key)
        frames = speech.unfold(1, self.window, self.hop_length)  # (B, T, w)
        frames = frames * _FULL_SCALE
        frames = frames - frames.mean(2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], 2)
        frames = (frames - _PREEMPHASIS * before) * taper
        power = torch.fft.rfft(frames, self.n_fft).abs().square()
        features = (power @ banks).clamp(min=_SMALLEST).log()
        valid = valid_frames(counts, features.size(1))
        return features.masked_fill(~valid[..., None], 0.0), counts

    def _add_tables(self, device: torch.device, dtype: torch.dtype) -> Tables:
        """Compute mel filters and window in float32, convert and cache them.

        The contexts make the values independent of the caller's default device (such
        as meta), inference mode and default dtype.
        """
        from torchaudio.compliance.kaldi import get_mel_banks

        with torch.inference_mode(False), torch.device("cpu"), float32_default():
            banks, _ = get_mel_banks(*self._mel, 100.0, -500.0, 1.0)
            # torchaudio's filters have no weight for the Nyquist bin: append a zero.
            banks = nn.functional.pad(banks, (0, 1)).T.contiguous()
            taper = torch.hann_window(self.window, periodic=False).pow(0.85)
            tables = banks.to(device, dtype), taper.to(device, dtype)
        self._tables[device, dtype] = tables
        return tables

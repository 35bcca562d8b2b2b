"""Kaldi's log mel filter-bank features, for a whole batch at once, on any device."""

from __future__ import annotations

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor, nn

from espnet_mtla.frontend.lengths import valid_frames
from espnet_mtla.tensor_modes import float32_default

# Kaldi reads 16-bit samples as they are; ours are in [-1, 1].
_FULL_SCALE = 32768.0
_PREEMPHASIS = 0.97
_SMALLEST = torch.finfo(torch.float32).eps


Tables = tuple[Tensor, Tensor]
"""Mel filters ``(n_fft / 2 + 1, mels)`` and window ``(window,)``."""


class FbankFrontend(AbsFrontend):
    """Log mel energies as ``compute-fbank-feats --dither=0`` gives them.

    Frames lie wholly inside the utterance (Kaldi's ``snip-edges``), so what stands
    behind its end never reaches them: an utterance of L samples has
    ``1 + (L - window) // shift`` frames, or none, in any batch. Samples in half
    precision are computed in single precision.

    Args:
        fs: sampling rate in Hz, a number or such as "16k".
        n_mels: filters, from ``fmin`` to ``fmax`` Hz; a ``fmax`` of 0 or below counts
            from half the sampling rate.
        frame_length, frame_shift: milliseconds.
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
        # Neither parameters nor buffers: a loader that builds on the meta device, or
        # ``to_empty``, would leave buffers that no checkpoint holds without values.
        self._tables: dict[tuple[torch.device, torch.dtype], Tables] = {}
        self._add_tables(torch.device("cpu"), torch.float32)  # checks the settings

    def output_size(self) -> int:
        """Features a frame."""
        return self.n_mels

    def frames(self, samples: Tensor) -> Tensor:
        """Frames of utterances with so many samples; any shape."""
        return ((samples - self.window) // self.hop_length + 1).clamp(min=0)

    def forward(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, n_mels), zero behind an utterance's end, and frames (B,).

        Args:
            speech: (B, L) samples in [-1, 1]; lengths: (B,).
        """
        counts = self.frames(lengths)
        speech = speech if speech.dtype == torch.float64 else speech.float()
        if speech.size(1) < self.window:
            return speech.new_zeros(len(speech), 1, self.n_mels), counts
        place = speech.device, speech.dtype
        banks, taper = self._tables.get(place) or self._add_tables(*place)
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
        """Compute mel filters and window in single precision; keep them for a device.

        The caller may be on the meta device, in inference mode or have another default
        type of numbers: none of that reaches the tables.
        """
        from torchaudio.compliance.kaldi import get_mel_banks

        with torch.inference_mode(False), torch.device("cpu"), float32_default():
            banks, _ = get_mel_banks(*self._mel, 100.0, -500.0, 1.0)
            # The filters leave out the bin of half the sampling rate.
            banks = nn.functional.pad(banks, (0, 1)).T.contiguous()
            taper = torch.hann_window(self.window, periodic=False).pow(0.85)
            tables = banks.to(device, dtype), taper.to(device, dtype)
        self._tables[device, dtype] = tables
        return tables

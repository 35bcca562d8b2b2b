"""Sound for made-up corpora: three tones under a slow envelope, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

FS = 16000


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """(n,) float64 in [-1, 1]: four syllables a second, another voice for each seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * FS)) / FS
    pitch = 100 + 20 * (seed % 7)
    tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 3, 8))
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time + rng.uniform(0, 6))
    return 0.2 * tones * envelope + 0.005 * rng.standard_normal(len(time))


def write_sound(path: Path, seconds: float, seed: int = 0) -> Path:
    """16-bit sound at 16 kHz; the ending says in which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech_like(seconds, seed), FS, subtype="PCM_16")
    return path

"""Join recorded words to one utterance: trim, change tempo and level, add pauses.

Samples are float32 in [-1, 1], one channel; levels are in dB against full scale.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr

from espnet_mtla.errors import UserError

FRAME_SECONDS = 0.005
# Frames below this level, relative to the loudest one, are silence at the edges.
# Unvoiced consonants are about 30 dB below vowels.
TRIM_DB = -40.0
TRIM_MARGIN_SECONDS = 0.02

PAUSE_SECONDS = (0.0, 0.1)
EDGE_SECONDS = (0.03, 0.15)
SPEED = (0.9, 1.1)
PIECE_GAIN_DB = (-2.0, 2.0)
LEVEL_DB = (-28.0, -18.0)
PEAK = 0.97
# Telephone lines have noise. Pauses of zeros would have log energies far from any that
# occur in real speech.
NOISE_DB = (-75.0, -60.0)


def load(path: Path, fs: int) -> np.ndarray:
    """Read a recording, trimmed, (samples,) float32.

    Raises:
        UserError: the file is unreadable or silent, has several channels or another
            rate than ``fs``, or samples that are not finite.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: unreadable sound file ({error})") from error
    if samples.ndim != 1:
        raise UserError(f"{path}: {samples.shape[1]} channels; prompts have one")
    if rate != fs:
        raise UserError(f"{path}: {rate} Hz, and the corpus has {fs} Hz")
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: samples that are not finite")
    trimmed = trim(samples, fs)
    if not len(trimmed):
        raise UserError(f"{path}: no sound in it; get the file again")
    return trimmed


def trim(samples: np.ndarray, fs: int) -> np.ndarray:
    """Remove silence at both ends, except a margin; a silent recording gets empty."""
    width = round(FRAME_SECONDS * fs)
    count = len(samples) // width
    energy = (samples[: count * width].reshape(count, width) ** 2).mean(1)
    if not count or energy.max() == 0:
        return samples[:0]
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (TRIM_DB / 10))
    margin = round(TRIM_MARGIN_SECONDS * fs)
    start = max(0, loud[0] * width - margin)
    return samples[start : (loud[-1] + 1) * width + margin]


def join(pieces: list[np.ndarray], fs: int, rng: Random) -> np.ndarray:
    """Join trimmed recordings with pauses, at random tempo and level.

    The tempo is changed by resampling, which changes the pitch, too.
    """
    speed = rng.uniform(*SPEED)
    parts = [_silence(EDGE_SECONDS, fs, rng)]
    for index, piece in enumerate(pieces):
        if index:
            parts.append(_silence(PAUSE_SECONDS, fs, rng))
        parts.append(soxr.resample(piece, fs * speed, fs) * _gain(PIECE_GAIN_DB, rng))
    parts.append(_silence(EDGE_SECONDS, fs, rng))
    return level(np.concatenate(parts), rng)


def level(samples: np.ndarray, rng: Random) -> np.ndarray:
    """Scale to a random level without clipping, and add faint line noise."""
    loudness = np.sqrt(np.mean(samples**2))
    samples = samples * (_gain(LEVEL_DB, rng) / loudness)
    samples *= min(1.0, PEAK / np.abs(samples).max())
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(samples))
    mixed = samples + noise * _gain(NOISE_DB, rng)
    return mixed.clip(-1, 1).astype(np.float32)


def _gain(decibels: tuple[float, float], rng: Random) -> float:
    return 10 ** (rng.uniform(*decibels) / 20)


def _silence(seconds: tuple[float, float], fs: int, rng: Random) -> np.ndarray:
    return np.zeros(round(rng.uniform(*seconds) * fs), dtype=np.float32)

"""Tones to make data folders from, and what a folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATE = 16000
TEXTS = {
    "a1": "hello world",
    "a2": "press nine to leave",
    "b/3": "the quick brown fox",
    "é4": "your call is important",
}


def tone(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """(n,) int16: a tone with noise, different for each seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * (200 + 50 * seed) * time)
    return (
        ((wave + 0.05 * rng.normal(size=len(time))) * 32768)
        .clip(-32768, 32767)
        .astype(np.int16)
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def forget_flac_length(file: Path, offset: int = 0) -> None:
    """Leave the number of samples out of a FLAC header, as its format allows."""
    data = bytearray(file.read_bytes())
    place = offset + 21
    data[place] &= 0xF0  # the last 36 bits of STREAMINFO's first 18 bytes
    data[place + 1 : place + 5] = b"\0\0\0\0"
    file.write_bytes(data)

"""Delay-and-sum beamforming: one channel from the microphones of an array.

A pipe for ``wav.scp``: ``python3 local/array_sum.py CHANNEL.wav... |`` writes a mono
WAV file to standard output. Windows of half a second are aligned with the first
microphone and averaged. The delay is the peak of the cross-correlation with phase
transform (GCC-PHAT; Knapp and Carter, 1976). Of a file with several channels the first
is used.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from espnet_mtla.bin.cli import run
from espnet_mtla.data.audio import open_audio
from espnet_mtla.errors import UserError

WINDOW_SECONDS = 0.5
# Sound takes 0.6 ms across an array of 20 cm.
MAX_DELAY_SECONDS = 0.0015


def read_channels(paths: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return float32 samples (microphones, shortest length) and the rate in Hz."""
    with ExitStack() as opened:
        sounds = [opened.enter_context(open_audio(path)) for path in paths]
        rates = {sound.samplerate for sound in sounds}
        if len(rates) > 1:
            raise UserError(
                f"{paths[0]} and its neighbours differ in rate: {sorted(rates)}"
            )
        # Filled in place: eight microphones of a long meeting take 2.7 GB.
        shortest = min(sound.frames for sound in sounds)
        channels = np.empty((len(sounds), shortest), dtype=np.float32)
        for row, sound in zip(channels, sounds, strict=True):
            row[:] = sound.read(shortest, dtype="float32", always_2d=True)[:, 0]
    return channels, rates.pop()


def delays(spectra: np.ndarray, size: int, most: int) -> np.ndarray:
    """Return the delay of each microphone against the first, in samples.

    Args:
        spectra: (microphones, size // 2 + 1), of zero-padded windows.
        size: samples of the Fourier transform.
        most: largest delay, in samples; results are in -most..most.
    """
    cross = spectra * spectra[0].conj()
    correlation = np.fft.irfft(cross / np.maximum(np.abs(cross), 1e-12), size)
    near = np.concatenate([correlation[:, -most:], correlation[:, : most + 1]], axis=1)
    return near.argmax(axis=1) - most


def delay_and_sum(channels: np.ndarray, fs: int) -> np.ndarray:
    """Align and average ``channels`` (microphones, samples) to (samples,)."""
    if len(channels) == 1:
        return channels[0]
    hop = round(WINDOW_SECONDS * fs / 2)
    size = 4 * hop  # as many zeros as samples: a circular shift must not wrap
    most = round(MAX_DELAY_SECONDS * fs)
    samples = channels.shape[1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * hop) / (2 * hop))
    turn = 2j * np.pi * np.arange(size // 2 + 1) / size
    mixed = np.zeros(samples + hop + size, dtype=np.float32)
    # The first window begins before the sound: each sample is in two windows.
    for start in range(-hop, samples, hop):
        piece = channels[:, max(start, 0) : start + 2 * hop]
        before = max(-start, 0)
        after = 2 * hop - before - piece.shape[1]
        frame = np.pad(piece, ((0, 0), (before, after))) * window
        spectra = np.fft.rfft(frame, size)
        late = delays(spectra, size, most)
        aligned = (spectra * np.exp(turn * late[:, None])).mean(axis=0)
        # Samples shifted to before the window have wrapped to its far end.
        mixed[start + hop : start + hop + size] += np.roll(
            np.fft.irfft(aligned, size), most
        )
    return mixed[hop + most : hop + most + samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="sound of each microphone")
    channels, fs = read_channels(parser.parse_args().files)
    import soundfile

    stream = io.BytesIO()
    mixed = delay_and_sum(channels, fs)
    soundfile.write(stream, mixed, fs, format="WAV", subtype="PCM_16")
    sys.stdout.buffer.write(stream.getvalue())


if __name__ == "__main__":
    run(main)

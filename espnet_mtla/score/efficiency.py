"""Time and memory that decoding a data set took: ``efficiency.json``."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from espnet_mtla.recognise.recogniser import Recognised, Recogniser


def summarise(
    recognised: Sequence[Recognised], recogniser: Recogniser
) -> dict[str, object]:
    """Return the content of ``efficiency.json`` as one flat dictionary.

    - ``wall_seconds``: time from samples in memory to tokens, summed over batches,
      without the warm-up. ``rtf`` is ``wall_seconds / audio_seconds``.
    - ``tokens``: tokens of the best hypotheses, without <eos>.
    - ``cache_bytes_measured``, ``cache_bytes_formula``, ``cache_bytes_allocated``:
      bytes of filled entries, the same by formula, and bytes allocated. All three are
      of the batch with the largest cache, all beams, at the step of its maximum.
    - ``cache_bytes_per_audio_second``: by formula, for one hypothesis per utterance.
      It compares attention types independently of batch, beam and device.
    - ``input``: ``text`` if the input was text, else absent. In that case every
      figure per second of audio is per token of the source.
    """
    trained, options, costs = recogniser.trained, recogniser.options, recogniser.costs
    audio = sum(result.audio_seconds for result in recognised)
    tokens = sum(len(result.nbest[0].tokens) for result in recognised)
    single = sum(
        recogniser.cache_bytes(result.prompt_frames, result.nbest, beam=1)
        for result in recognised
    )
    decoder = trained.model.decoder
    peak, peak_source = peak_memory(trained.device)
    return {
        "utterances": len(recognised),
        "audio_seconds": audio,
        "wall_seconds": costs.wall_seconds,
        "encoder_seconds": costs.encoder_seconds,
        "search_seconds": costs.search_seconds,
        "rtf": costs.wall_seconds / audio,
        "tokens": tokens,
        "tokens_per_second": tokens / costs.wall_seconds,
        "cache_bytes_formula": costs.cache_formula,
        "cache_bytes_measured": costs.cache_used,
        "cache_bytes_allocated": costs.cache_allocated,
        "cache_bytes_per_audio_second": single / audio,
        "peak_memory_bytes": peak,
        "peak_memory_kind": peak_source,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "attention": "none" if decoder is None else decoder.config.attention,
        "attention_conf": {} if decoder is None else decoder.config.attention_conf,
        **asdict(options),
        "device": device_name(trained.device),
        "cores": _threads(),
        "versions": _versions(),
        **({"input": "text"} if trained.read_source else {}),
    }


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Return the peak memory in bytes and the name of the measure.

    On a GPU: the peak of torch's allocated tensors, parameters included, since start
    or the last reset. On the CPU: the peak resident set of this process, libraries
    included.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "cuda_max_memory_allocated"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    scale = 1 if sys.platform == "darwin" else 1024
    return peak * scale, "process_max_resident_set"


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or ``cpu``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _versions() -> dict[str, str]:
    import torch

    import espnet_mtla

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "espnet": metadata.version("espnet"),
        "espnet_mtla": espnet_mtla.__version__,
    }


def table(summary: dict[str, Any]) -> str:
    """Format the summary of one decoding for the terminal."""
    mega = 2**20
    text = summary.get("input") == "text"
    length = f"{summary['audio_seconds']:.0f} tokens"
    rows = [
        ("utterances", f"{summary['utterances']}"),
        ("source", length) if text else ("audio", f"{summary['audio_seconds']:.1f} s"),
        ("wall time", f"{summary['wall_seconds']:.2f} s"),
        ("  encoder", f"{summary['encoder_seconds']:.2f} s"),
        ("  search", f"{summary['search_seconds']:.2f} s"),
        ("ms a source token", f"{1000 * summary['rtf']:.2f}")
        if text
        else ("RTF", f"{summary['rtf']:.4f}"),
        ("tokens", f"{summary['tokens']}"),
        ("tokens a second", f"{summary['tokens_per_second']:.1f}"),
        ("cache, formula", f"{summary['cache_bytes_formula'] / mega:.2f} MiB"),
        ("cache, measured", f"{summary['cache_bytes_measured'] / mega:.2f} MiB"),
        ("cache, allocated", f"{summary['cache_bytes_allocated'] / mega:.2f} MiB"),
        (
            "cache a token" if text else "cache a second",
            f"{summary['cache_bytes_per_audio_second']:.0f} bytes",
        ),
        ("peak memory", f"{summary['peak_memory_bytes'] / mega:.0f} MiB"),
        ("device", f"{summary['device']}"),
    ]
    return "\n".join(f"{name:18s} {value:>14s}" for name, value in rows)

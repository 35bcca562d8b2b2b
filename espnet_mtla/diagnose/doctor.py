"""The report of ``doctor``: what is here, what will be used and why, does it work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from espnet_mtla.diagnose.finding import Finding, as_table
from espnet_mtla.diagnose.machine import hardware, packages
from espnet_mtla.score.table import aligned

if TYPE_CHECKING:
    import torch


def report() -> Iterator[tuple[str, list[Finding]]]:
    """Sections as text, as each is ready, and the comparisons that it holds."""
    yield _section("Machine", _pairs(hardware())), []
    yield _section("Packages", _pairs(packages())), []
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield _section(f"Decode back-ends on {device}", _backends(device)), []
    began = time.perf_counter()
    findings = [*_right(device), *_generation()]
    yield _section("Correctness", as_table(findings)), findings
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    yield _section(_speed_title(dtype), _speed(device, dtype)), []
    yield f"{time.perf_counter() - began:.1f} s for the checks\n", []


def _section(title: str, body: str) -> str:
    return f"{title}\n{'=' * len(title)}\n{body}\n"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _backends(device: torch.device) -> str:
    """For MHA's, MLA's and MTLA's entries: who serves them, and why not the others."""
    import torch

    from espnet_mtla.diagnose.kernels import backends
    from espnet_mtla.diagnose.selftest import make_decoder

    kinds = [torch.float32]
    if device.type == "cuda":
        kinds += [torch.bfloat16, torch.float16]
    lines = []
    for name in ("mha", "mla", "mtla_s2"):
        decoder = make_decoder(name, device, vocab_size=5, num_layers=1)
        layout = decoder.layers[0].attention.layout
        for dtype in kinds:
            reasons = []
            for backend in backends().values():
                why = backend.unsupported_reason(layout, dtype, device)
                if why is None:
                    break
                reasons.append(f"  not {backend.name}: {why}")
            kind = str(dtype).removeprefix("torch.")
            lines += [f"{name}, {kind}: {backend.name}", *reasons]
    return "\n".join(lines)


def _right(device: torch.device) -> Iterator[Finding]:
    import torch

    from espnet_mtla.diagnose.kernels import compare_backends
    from espnet_mtla.diagnose.selftest import make_decoder, training_is_decoding

    yield from training_is_decoding(device)
    decoder = make_decoder("mtla_s2", device, vocab_size=5, num_layers=1)
    attention = decoder.layers[0].attention
    kinds = [(torch.float32, 1e-4)]
    if device.type == "cuda":
        kinds = [(torch.float32, 2e-3), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)]
    for dtype, allowed in kinds:
        for name, apart, text in compare_backends(
            attention.layout, attention.scale, device, dtype
        ):
            yield Finding(f"{name} = reference", text, apart, allowed)


def _generation() -> Iterator[Finding]:
    from espnet_mtla.diagnose.generation import cached_is_uncached

    yield from cached_is_uncached()


def _speed_title(dtype: torch.dtype) -> str:
    from espnet_mtla.diagnose.selftest import SPEED_BATCH, SPEED_BEAM, SPEED_PROMPT

    kind = str(dtype).removeprefix("torch.")
    return (
        f"A decoding step: 1 layer, {SPEED_BATCH} utterances, beam {SPEED_BEAM}, "
        f"prompt {SPEED_PROMPT}, {kind}"
    )


def _speed(device: torch.device, dtype: torch.dtype) -> str:
    from espnet_mtla.diagnose.selftest import step_times

    return aligned(["attention", "ms", "cache MB"], step_times(device, dtype))

"""The report of ``doctor``: machine, packages, back-ends, correctness and speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from espnet_mtla.diagnose.check_result import CheckResult, as_table
from espnet_mtla.diagnose.machine import hardware, packages
from espnet_mtla.score.table import aligned

if TYPE_CHECKING:
    import torch


def sections() -> Iterator[tuple[str, list[CheckResult]]]:
    """Yield the sections of the report as text, and the checks that each contains."""
    yield _section("Machine", _pairs(hardware())), []
    yield _section("Packages", _pairs(packages())), []
    import torch

    from espnet_mtla.recognise.load import choose_device

    device = choose_device("auto")
    yield _section(f"Decode back-ends on {device}", _backends(device)), []
    began = time.perf_counter()
    results = [*_correctness(device), *_generation()]
    yield _section("Correctness", as_table(results)), results
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    yield _section(_speed_title(dtype), _speed(device, dtype)), []
    yield f"{time.perf_counter() - began:.1f} s for the checks\n", []


def _section(title: str, body: str) -> str:
    return f"{title}\n{'=' * len(title)}\n{body}\n"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _backends(device: torch.device) -> str:
    """Return the back-end for entries of MHA, MLA and MTLA, and why not the others."""
    import torch

    from espnet_mtla.diagnose.kernels import backends
    from espnet_mtla.diagnose.selftest import make_decoder

    dtypes = [torch.float32]
    if device.type == "cuda":
        dtypes += [torch.bfloat16, torch.float16]
    lines = []
    for name in ("mha", "mla", "mtla_s2"):
        decoder = make_decoder(name, device, vocab_size=5, num_layers=1)
        layout = decoder.layers[0].attention.layout
        for dtype in dtypes:
            reasons = []
            for backend in backends().values():
                why = backend.unsupported_reason(layout, dtype, device)
                if why is None:
                    break
                reasons.append(f"  not {backend.name}: {why}")
            shown = str(dtype).removeprefix("torch.")
            lines += [f"{name}, {shown}: {backend.name}", *reasons]
    return "\n".join(lines)


def _correctness(device: torch.device) -> Iterator[CheckResult]:
    import torch

    from espnet_mtla.diagnose.kernels import compare_backends
    from espnet_mtla.diagnose.selftest import make_decoder, training_is_decoding

    yield from training_is_decoding(device)
    decoder = make_decoder("mtla_s2", device, vocab_size=5, num_layers=1)
    attention = decoder.layers[0].attention
    tolerances = [(torch.float32, 1e-4)]
    if device.type == "cuda":
        tolerances = [
            (torch.float32, 2e-3),
            (torch.bfloat16, 5e-2),
            (torch.float16, 1e-2),
        ]
    for dtype, allowed in tolerances:
        for name, apart, text in compare_backends(
            attention.layout, attention.scale, device, dtype
        ):
            yield CheckResult(f"{name} = reference", text, apart, allowed)


def _generation() -> Iterator[CheckResult]:
    from espnet_mtla.diagnose.generation import cached_is_uncached

    yield from cached_is_uncached()


def _speed_title(dtype: torch.dtype) -> str:
    from espnet_mtla.diagnose.selftest import SPEED_BATCH, SPEED_BEAM, SPEED_PROMPT

    shown = str(dtype).removeprefix("torch.")
    return (
        f"A decoding step: 1 layer, {SPEED_BATCH} utterances, beam {SPEED_BEAM}, "
        f"prompt {SPEED_PROMPT}, {shown}"
    )


def _speed(device: torch.device, dtype: torch.dtype) -> str:
    from espnet_mtla.diagnose.selftest import step_times

    return aligned(["attention", "ms", "cache MB"], step_times(device, dtype))

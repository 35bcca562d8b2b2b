"""Compare the decode back-ends with PyTorch's, and time them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from espnet_mtla.attention import EntryLayout
    from espnet_mtla.attention.decoding.backend import DecodeBackend

ROWS, QUERIES, ENTRIES = 4, 16, 300
"""Sizes of a small decoding step: utterances, queries of each (beam times heads), and
cache entries."""


def backends() -> dict[str, DecodeBackend]:
    """Return all back-ends by name, PyTorch's last."""
    from espnet_mtla.attention.decoding.backend import FASTEST_FIRST

    package = "espnet_mtla.attention.decoding.backend"
    return {n: import_module(f"{package}.{n}").BACKEND for n in FASTEST_FIRST}


def random_step(
    layout: EntryLayout, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, entries and the number of valid entries a row; others are NaN."""
    generator = torch.Generator().manual_seed(0)
    heads, width = layout.heads, layout.width
    q = torch.randn(ROWS, heads, QUERIES, layout.key_width, generator=generator)
    entries = torch.randn(ROWS, heads, ENTRIES, width, generator=generator)
    visible = torch.tensor([[ENTRIES], [ENTRIES // 3], [1], [ENTRIES - 7]])
    for row, count in enumerate(visible.flatten().tolist()):
        entries[row, :, count:] = float("nan")
    return q.to(device, dtype), entries.to(device, dtype), visible.to(device)


@torch.inference_mode()
def compare_backends(
    layout: EntryLayout,
    scale: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[str, float | None, str]]:
    """Yield each back-end's name, largest difference, and what was compared.

    The difference is None if the back-end does not support this layout, dtype or
    device; the text then says why. The reference computes in float32 from the same
    rounded numbers.

    Args:
        layout: layout of the cache entries.
        scale: factor of the attention scores.
        device: where to compute.
        dtype: of queries and entries.
    """
    *others, reference = backends().values()
    q, entries, visible = random_step(layout, dtype, device)
    wanted, wanted_lse = reference.attend(
        q.float(), entries.float(), layout, visible, scale
    )
    shown = str(dtype).removeprefix("torch.")
    for backend in others:
        why = backend.unsupported_reason(layout, dtype, device)
        if why is not None:
            yield backend.name, None, why
            continue
        out, lse = backend.attend(q, entries, layout, visible, scale)
        apart = max(
            float((out.float() - wanted).abs().max()),
            float((lse.float() - wanted_lse).abs().max()),
        )
        text = f"{ENTRIES} entries of {layout.heads} x {layout.width}, {shown}"
        yield backend.name, apart, text


@torch.inference_mode()
def milliseconds(
    backend: DecodeBackend,
    layout: EntryLayout,
    scale: float,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int = 20,
) -> float:
    """Return the median time of a call in ms, after two that are not counted.

    Args:
        backend: the back-end.
        layout: layout of the cache entries.
        scale: factor of the attention scores.
        dtype: of queries and entries.
        device: where to compute.
        repeats: calls that are timed.
    """
    q, entries, visible = random_step(layout, dtype, device)
    times = []
    for number in range(repeats + 2):
        began = time.perf_counter()
        backend.attend(q, entries, layout, visible, scale)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number > 1:
            times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[len(times) // 2]

"""The back-end of our own Triton kernels: split-KV attention, fused small steps.

The kernels are in :mod:`.triton_kernels` and :mod:`.triton_token`; here are their
shapes and grids. A tile of latent entries is read once and serves as key and as value.
A long row is split among programs and the parts are merged in a fixed order, so that
results do not change from run to run.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from espnet_mtla.attention.decoding.backend import TokenWriter
    from espnet_mtla.attention.decoding.layout import EntryLayout
    from espnet_mtla.attention.decoding.timeline import TokenPlacement
    from espnet_mtla.attention.merge import HyperNetwork

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 512
"""Widest value, or key beside the rotary part, that fits a program's registers."""
TILE_BYTES = 40 * 1024
"""A tile of entries; three in flight and two programs on a processor fit an H100."""
LEAST_SPLIT, USUAL_SPLIT = 128, 512
"""Entries of a split: fewer cost more in merging than they gain."""


@dataclass(frozen=True)
class Launch:
    """How the attention kernel is cut: block sizes, programs a row, warps, stages."""

    block_m: int
    block_s: int
    splits: int
    warps: int
    stages: int


def plan(
    layout: EntryLayout,
    itemsize: int,
    groups: int,
    queries: int,
    slots: int,
    processors: int,
) -> Launch:
    """Block sizes from the shapes alone: nothing is timed, nothing asks the device.

    Args:
        itemsize: bytes of a number.
        groups: rows times entry heads; queries: of each; slots: entries allocated.
        processors: of the device.
    """
    block_m = min(max(_power(queries), 16), 64)
    if itemsize == 4:
        block_m = min(block_m, 32)
    read = layout.width * itemsize
    block_s = min(max(_power(TILE_BYTES // read + 1) // 2, 16), 128)
    programs = groups * -(-queries // block_m)
    few = min(-(-processors // programs), slots // LEAST_SPLIT)
    usual = min(-(-8 * processors // programs), slots // USUAL_SPLIT)
    wide = block_m == 64 and layout.value_width > 256
    return Launch(
        block_m,
        block_s,
        splits=max(few, usual, 1),
        warps=8 if wide else 4,
        stages=3 if block_m < 64 else 2,
    )


class TritonBackend:
    """See :class:`~espnet_mtla.attention.decoding.backend.DecodeBackend`.

    Args:
        devices: types of device to run on; the CPU only where Triton interprets.
    """

    name = "triton"

    def __init__(self, devices: Sequence[str] = ("cuda",)) -> None:
        self.devices = devices

    @property
    def token_writer(self) -> TokenWriter:
        return self.write_token

    def unsupported_reason(
        self, layout: EntryLayout, dtype: torch.dtype, device: torch.device
    ) -> str | None:
        if find_spec("triton") is None:
            return "Triton is not installed: pip install triton"
        if device.type not in self.devices:
            return f"its kernels need a CUDA device, {device} given"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return "its kernels need a GPU of compute capability 8.0 or later"
        if device.type == "cuda" and not _has_compiler():
            return "Triton needs a C compiler to launch kernels: install gcc, or set CC"
        if dtype not in DTYPES:
            return f"no {dtype} kernels; bfloat16, float16 or float32 is needed"
        main, _ = _key_parts(layout)
        if max(main, layout.value_width) > WIDEST:
            return f"keys or values wider than {WIDEST}"
        return None

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        layout: EntryLayout,
        visible: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        _refuse_gradients(q, entries)
        launch = launch_for(q, entries, layout)
        return attend(q, entries, layout, visible, scale, launch)

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        _refuse_gradients(a, b)
        a, b, width = a.contiguous(), b.contiguous(), a.size(-1)
        out, rows = torch.empty_like(a), a.numel() // width
        block = _power(width)
        block_rows = max(2048 // block, 1)
        _kernels().merge_kernel[(-(-rows // block_rows),)](
            *(a, lse_a.contiguous(), b, lse_b.contiguous(), out, rows),
            WIDTH=width,
            BLOCK=block,
            BLOCK_ROWS=block_rows,
        )
        return out

    def write_token(
        self,
        raw: Tensor,
        norm: nn.LayerNorm,
        hypernet: HyperNetwork | None,
        placement: TokenPlacement,
        suffix: Tensor,
    ) -> None:
        """Merge one new token a row into its latent entry, in place, in one launch.

        Does what ``entries`` and ``KVCache.write`` do for a single token of MLA
        (``hypernet=None``) and MTLA (:mod:`espnet_mtla.attention.merge`).

        Args:
            raw: ``(N, r + d_R)``, what ``wkv_a`` made of the tokens.
            norm: of the latent; hypernet: merge weights.
            new: where the tokens stand.
            suffix: the cache's ``(N, 1, S, r + d_R)``, written at one slot a row.
        """
        _refuse_gradients(raw, suffix)
        rows, width = raw.shape
        rank, angles = norm.normalized_shape[0], placement.angles.flatten(0, 1)
        # Not read without a hyper-network, but a kernel's argument needs an address.
        linears = (hypernet.fc_c, hypernet.fc_p) if hypernet else (norm, norm)
        weights = [t for linear in linears for t in (linear.weight, linear.bias)]
        chunk_encodings = (
            raw
            if placement.chunk_encodings is None
            else placement.chunk_encodings.contiguous()
        )
        from espnet_mtla.attention.decoding.backend.triton_token import write_kernel

        write_kernel[(-(-rows // 16),)](
            *(
                raw,
                norm.weight,
                norm.bias,
                angles,
                chunk_encodings,
                placement.slot,
                placement.is_open,
            ),
            *(*weights, suffix, raw.stride(0)),
            *(angles.stride(0) if len(angles) > 1 else 0, suffix.stride(0)),
            *(suffix.stride(2), rows, norm.eps),
            MERGES=hypernet is not None,
            RANK=rank,
            ROPE=width - rank,
            FEATURES=rank // 4,
            BLOCK_N=16,
            BLOCK_RANK=_block(rank),
            BLOCK_ROPE=_block((width - rank) // 2),
            BLOCK_FEATURES=_block(rank // 4),
            BLOCK_K=min(_block(rank), 64),
            PRECISION=_precision(raw.dtype),
            num_warps=4 if rank <= 256 else 8,
        )


def attend(
    q: Tensor,
    entries: Tensor,
    layout: EntryLayout,
    visible: Tensor,
    scale: float,
    launch: Launch,
) -> tuple[Tensor, Tensor]:
    """:meth:`TritonBackend.attend`, cut as ``launch`` says; the result is the same."""
    kernels = _kernels()
    (rows, heads, queries, _), width = q.shape, layout.value_width
    splits, shape = launch.splits, (rows, heads, queries)
    out, lse = q.new_empty(*shape, width), q.new_empty(shape, dtype=torch.float32)
    parts, part_lse = out, lse
    if splits > 1:
        parts = lse.new_empty(splits, *shape, width)
        part_lse = lse.new_empty(splits, *shape)
    kernels.attend_kernel[(rows * heads * -(-queries // launch.block_m), splits)](
        *(q, entries, visible, parts, part_lse, scale, heads, queries),
        *(*q.stride()[:3], *entries.stride()[:3], visible.stride(0)),
        visible.stride(1) if visible.size(1) > 1 else 0,
        **constants(layout, q.dtype, launch),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    if splits > 1:
        count, block = lse.numel(), min(_power(width), 128)
        kernels.reduce_kernel[(count, -(-width // block))](
            *(parts, part_lse, out, lse, count, splits),
            WIDTH=width,
            BLOCK=block,
            PARTS=_power(splits),
        )
    return out, lse


def constants(
    layout: EntryLayout, dtype: torch.dtype, launch: Launch
) -> dict[str, int | bool | str]:
    """What the attention kernel has to know when it is compiled."""
    main, tail = _key_parts(layout)
    return {
        "MAIN": main,
        "TAIL": tail,
        "VALUE": layout.value_width,
        "VALUE_START": layout.value_start,
        "BLOCK_M": launch.block_m,
        "BLOCK_S": launch.block_s,
        "BLOCK_MAIN": _block(main),
        "BLOCK_TAIL": _block(tail),
        "BLOCK_VALUE": _block(layout.value_width),
        "PRECISION": _precision(dtype),
    }


def launch_for(q: Tensor, entries: Tensor, layout: EntryLayout) -> Launch:
    """:func:`plan` for these shapes on their device."""
    rows, heads, queries, _ = q.shape
    processors = _processors(q.device)
    groups, slots = rows * heads, entries.size(2)
    return plan(layout, q.itemsize, groups, queries, slots, processors)


def _shared(layout: EntryLayout) -> bool:
    """Whether values are the beginning of the keys, as in a latent entry."""
    return layout.value_start == 0 and layout.value_width <= layout.key_width


def _key_parts(layout: EntryLayout) -> tuple[int, int]:
    """Width of a key's main part, which is the value where shared, and the rest."""
    main = layout.value_width if _shared(layout) else layout.key_width
    return main, layout.key_width - main


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def _block(width: int) -> int:
    """The width of a tile for matrix products: a power of two, 16 at least."""
    return max(_power(width), 16)


def _precision(dtype: torch.dtype) -> str:
    """Three products of tf32 stand for one of float32: the error is float32's."""
    return "tf32x3" if dtype == torch.float32 else "ieee"


def _refuse_gradients(*tensors: Tensor) -> None:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise UserError(
            "backend triton: its kernels have no gradients; decode under "
            "torch.no_grad(), or set backend: torch"
        )


def _has_compiler() -> bool:
    """Whether Triton will find what it builds its launchers with."""
    return "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def _kernels() -> ModuleType:
    from espnet_mtla.attention.decoding.backend import triton_kernels

    return triton_kernels


BACKEND = TritonBackend()

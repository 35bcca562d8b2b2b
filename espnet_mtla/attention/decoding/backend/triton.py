"""The Triton back-end: split-KV attention, and a new token's entry in one launch.

The kernels are in :mod:`.triton_kernels` and :mod:`.triton_token`; :mod:`.triton_plan`
chooses their sizes, and this module launches them.

In decoding a row has few queries and many entries, so a program a row would leave most
of a GPU idle. The entries of a row are therefore cut into ``splits``. Each program
computes the softmax over one split, and a second kernel merges the splits by their
log-sum-exps. It does so in a fixed order, so that results are equal from run to run.

A tile of latent entries is loaded once and used as keys and as values.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend.triton_plan import (
    Launch,
    plan,
    power_of_two,
    tile_width,
)
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
"""Largest width of values, and of keys without rotary part: a program's registers."""


class TritonBackend:
    """See :class:`~espnet_mtla.attention.decoding.backend.DecodeBackend`.

    Args:
        devices: types of device that are supported; ``cpu`` for Triton's interpreter.
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
        block = power_of_two(width)
        block_rows = max(2048 // block, 1)
        _kernels().merge_kernel[(-(-rows // block_rows),)](
            a_ptr=a,
            a_lse_ptr=lse_a.contiguous(),
            b_ptr=b,
            b_lse_ptr=lse_b.contiguous(),
            out_ptr=out,
            rows=rows,
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

        Computes what ``entries`` and ``KVCache.write`` compute for a single token of
        MLA or MTLA (:mod:`espnet_mtla.attention.merge`).

        Args:
            raw: output of ``wkv_a`` for the tokens, ``(N, r + d_R)``.
            norm: LayerNorm of the latent.
            hypernet: merge weights; None: MLA.
            placement: where the tokens stand.
            suffix: of the cache, ``(N, 1, S, r + d_R)``; written at one slot a row.
        """
        _refuse_gradients(raw, suffix)
        rows, width = raw.shape
        rank, angles = norm.normalized_shape[0], placement.angles.flatten(0, 1)
        encodings = placement.chunk_encodings
        # Without a hyper-network its arguments are not read, but must be addresses.
        fc_c, fc_p = (hypernet.fc_c, hypernet.fc_p) if hypernet else (norm, norm)
        from espnet_mtla.attention.decoding.backend.triton_token import write_kernel

        write_kernel[(-(-rows // 16),)](
            raw_ptr=raw,
            gain_ptr=norm.weight,
            shift_ptr=norm.bias,
            angle_ptr=angles,
            code_ptr=raw if encodings is None else encodings.contiguous(),
            slot_ptr=placement.slot,
            open_ptr=placement.is_open,
            fc_c_ptr=fc_c.weight,
            fc_c_bias_ptr=fc_c.bias,
            fc_p_ptr=fc_p.weight,
            fc_p_bias_ptr=fc_p.bias,
            cache_ptr=suffix,
            raw_row=raw.stride(0),
            angle_row=angles.stride(0) if len(angles) > 1 else 0,  # 0: one for all
            cache_row=suffix.stride(0),
            cache_slot=suffix.stride(2),
            rows=rows,
            epsilon=norm.eps,
            MERGES=hypernet is not None,
            RANK=rank,
            ROPE=width - rank,
            FEATURES=rank // 4,
            BLOCK_N=16,
            BLOCK_RANK=tile_width(rank),
            BLOCK_ROPE=tile_width((width - rank) // 2),
            BLOCK_FEATURES=tile_width(rank // 4),
            BLOCK_K=min(tile_width(rank), 64),
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
    """Do what :meth:`TritonBackend.attend` does, with given launch parameters.

    Grid of the attention kernel: axis 0 has a program for each row, head and block of
    queries; axis 1 one for each split. With one split the kernel writes the result
    itself. With several it writes float32 parts ``(splits, R, G, M, e)``, which the
    second kernel merges: a program a query and block of columns.
    """
    kernels = _kernels()
    (rows, heads, queries, _), width = q.shape, layout.value_width
    splits, shape = launch.splits, (rows, heads, queries)
    out, lse = q.new_empty(*shape, width), q.new_empty(shape, dtype=torch.float32)
    parts, part_lse = out, lse
    if splits > 1:
        parts = lse.new_empty(splits, *shape, width)
        part_lse = lse.new_empty(splits, *shape)
    kernels.attend_kernel[(rows * heads * -(-queries // launch.block_m), splits)](
        q_ptr=q,
        entry_ptr=entries,
        visible_ptr=visible,
        out_ptr=parts,
        lse_ptr=part_lse,
        scale=scale,
        heads=heads,
        queries=queries,
        q_row=q.stride(0),
        q_head=q.stride(1),
        q_query=q.stride(2),
        entry_row=entries.stride(0),
        entry_head=entries.stride(1),
        entry_slot=entries.stride(2),
        visible_row=visible.stride(0),
        visible_query=visible.stride(1) if visible.size(1) > 1 else 0,  # 0: one for all
        **constants(layout, q.dtype, launch),
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    if splits > 1:
        count, block = lse.numel(), min(power_of_two(width), 128)
        kernels.reduce_kernel[(count, -(-width // block))](
            part_ptr=parts,
            part_lse_ptr=part_lse,
            out_ptr=out,
            lse_ptr=lse,
            rows=count,
            parts=splits,
            WIDTH=width,
            BLOCK=block,
            PARTS=power_of_two(splits),
        )
    return out, lse


def constants(
    layout: EntryLayout, dtype: torch.dtype, launch: Launch
) -> dict[str, int | bool | str]:
    """Return the compile-time constants of the attention kernel."""
    main, tail = _key_parts(layout)
    return {
        "MAIN": main,
        "TAIL": tail,
        "VALUE": layout.value_width,
        "VALUE_START": layout.value_start,
        "BLOCK_M": launch.block_m,
        "BLOCK_S": launch.block_s,
        "BLOCK_MAIN": tile_width(main),
        "BLOCK_TAIL": tile_width(tail),
        "BLOCK_VALUE": tile_width(layout.value_width),
        "PRECISION": _precision(dtype),
    }


def launch_for(q: Tensor, entries: Tensor, layout: EntryLayout) -> Launch:
    """Return :func:`plan` for these shapes on their device."""
    rows, heads, queries, _ = q.shape
    processors = _processors(q.device)
    groups, slots = rows * heads, entries.size(2)
    return plan(layout, q.itemsize, groups, queries, slots, processors)


def _shared(layout: EntryLayout) -> bool:
    """Return True if values are the beginning of the keys, as in a latent entry."""
    return layout.value_start == 0 and layout.value_width <= layout.key_width


def _key_parts(layout: EntryLayout) -> tuple[int, int]:
    """Return the widths of a key's main part and of the rest.

    In a latent entry the main part is the value, so that one tile serves as both.
    """
    main = layout.value_width if _shared(layout) else layout.key_width
    return main, layout.key_width - main


def _precision(dtype: torch.dtype) -> str:
    """Return Triton's precision of products.

    ``tf32x3`` computes a float32 product by three of tf32, with float32's error.
    """
    return "tf32x3" if dtype == torch.float32 else "ieee"


def _refuse_gradients(*tensors: Tensor) -> None:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise UserError(
            "backend triton: its kernels have no gradients; decode under "
            "torch.no_grad(), or set backend: torch"
        )


def _has_compiler() -> bool:
    """Return True if there is a C compiler, with which Triton builds its launchers."""
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

"""The back-end that calls an installed FlashAttention.

Three builds have kernels for one query a row over a cache:

- ``flash-attn`` 2.7 and later: keys and values of one width (MHA, GQA, MQA);
- the build extended for MTLA, https://github.com/D-Keqi/flash-attention, which the
  reference uses: latent entries of 256 numbers and a rotary part of up to 32;
- FlashAttention-3, module ``flash_attn_interface``, on Hopper GPUs alone: both kinds of
  entries; latents of 256 or 512 numbers and a rotary part of up to 64.

All return the log-sum-exp too, by which prompt and suffix are merged.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from espnet_mtla.attention.decoding.backend.torch import BACKEND as TORCH
from espnet_mtla.attention.precision import NEG_INF

if TYPE_CHECKING:
    from espnet_mtla.attention.decoding.layout import EntryLayout

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""A function of ``q (R, 1, H, d)``, ``entries (C, S, G, w)``, the index in C of each
row's entries ``(R,)``, the number that the row sees ``(R,)``, and the scale. It returns
output ``(R, 1, H, e)`` and log-sum-exp ``(R, H, 1)``."""

MTLA_BUILD = "https://github.com/D-Keqi/flash-attention"
HOPPER_BUILD = (
    "FlashAttention-3 (hopper/ of https://github.com/Dao-AILab/flash-attention)"
)


class FlashAttnBackend:
    """See :class:`~espnet_mtla.attention.decoding.backend.DecodeBackend`.

    Args:
        devices: types of device that are supported; others than CUDA are for tests.
    """

    name = "flash_attn"
    token_writer = None
    merge = staticmethod(TORCH.merge)

    def __init__(self, devices: Sequence[str] = ("cuda",)) -> None:
        self.devices = devices

    def unsupported_reason(
        self, layout: EntryLayout, dtype: torch.dtype, device: torch.device
    ) -> str | None:
        if device.type not in self.devices:
            return f"FlashAttention needs a CUDA device, {device} given"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"FlashAttention needs bfloat16 or float16, {dtype} given"
        kernel = _kernel(layout)
        return kernel if isinstance(kernel, str) else None

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        layout: EntryLayout,
        visible: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        rows, heads, queries, _ = q.shape
        source = torch.arange(rows, device=q.device, dtype=torch.int32)
        if visible.size(1) > 1:  # kernels have one limit a row: a row for each query
            kernel_q = (
                q.permute(0, 2, 1, 3).flatten(0, 1).unsqueeze(1)
            )  # (R M, 1, G, d)
            source = source.repeat_interleave(queries)
        else:
            kernel_q = q.flatten(1, 2).unsqueeze(1)  # (R, 1, G M, d)
        seen = visible.flatten()
        kernel = _kernel(layout)
        assert not isinstance(kernel, str), "unsupported_reason() is called before"
        out, lse = kernel(
            kernel_q, entries.transpose(1, 2), source, seen.to(torch.int32), scale
        )
        # For rows without keys the builds return different things.
        nothing = (seen == 0)[:, None, None]
        lse = lse.masked_fill(nothing, NEG_INF)
        out = out.masked_fill(nothing.unsqueeze(-1), 0.0)
        if visible.size(1) > 1:
            out = out.reshape(rows, queries, heads, -1).transpose(1, 2)
            return out, lse.reshape(rows, queries, heads).transpose(1, 2)
        out = out.reshape(rows, heads, queries, -1)
        return out, lse.reshape(rows, heads, queries)


@functools.cache
def _kernel(layout: EntryLayout) -> Kernel | str:
    """Return the kernel for such entries, or a message of what to install."""
    latent = layout.value_start < layout.key_width
    finders = (_of_hopper, _of_mtla if latent else _of_two)
    reasons = []
    for kernel in (finder(layout) for finder in finders):
        if not isinstance(kernel, str):
            return kernel
        reasons.append(kernel)
    return "; ".join(reasons)


def _of_two(layout: EntryLayout) -> Kernel | str:
    """Return FlashAttention-2's kernel with a cache, or why it cannot be used."""
    module = _load("flash_attn", "pip install flash-attn")
    if isinstance(module, str):
        return module
    function = module.flash_attn_with_kvcache
    if "return_softmax_lse" not in inspect.signature(function).parameters:
        return "this flash-attn returns no log-sum-exp: pip install 'flash-attn>=2.7'"
    width = layout.key_width
    if width != layout.value_width or width > 256 or width % 8:
        return (
            f"flash-attn needs heads of one width, a multiple of 8 up to 256: {width}"
        )

    def kernel(
        q: Tensor, entries: Tensor, source: Tensor, seen: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        return function(
            q,
            layout.keys(entries),
            layout.values(entries),
            cache_seqlens=seen,
            cache_batch_idx=source,
            softmax_scale=scale,
            return_softmax_lse=True,
        )

    return kernel


def _of_mtla(layout: EntryLayout) -> Kernel | str:
    """Return the kernel of the build for MTLA, or why it cannot be used.

    It calls the compiled function, since the Python one drops the log-sum-exp.
    """
    module = _load("flash_attn", f"build {MTLA_BUILD}")
    if isinstance(module, str):
        return module
    if not hasattr(module, "flash_attn_with_kvcache_mtla"):
        return f"this flash-attn has no kernel for latent entries: build {MTLA_BUILD}"
    rope = layout.key_width - layout.value_width
    if layout.value_width != 256 or not 0 < rope <= 32 or rope % 8:
        sizes = f"{layout.value_width}+{rope}"
        return f"flash-attn's MTLA kernel is for entries of 256+32, {sizes} given"
    function = module.flash_attn_interface.flash_attn_cuda.fwd_kvcache_mtla

    def kernel(
        q: Tensor, entries: Tensor, source: Tensor, seen: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        new_keys = cos = sin = block_table = alibi_slopes = out = None
        causal, window_left, window_right = False, -1, -1
        rotary_interleaved, num_splits = True, 1
        return function(
            q,
            entries,
            layout.value_width,
            new_keys,
            seen,
            cos,
            sin,
            source,
            block_table,
            alibi_slopes,
            out,
            scale,
            causal,
            window_left,
            window_right,
            rotary_interleaved,
            num_splits,
        )

    return kernel


def _of_hopper(layout: EntryLayout) -> Kernel | str:
    """Return FlashAttention-3's kernel, or why it cannot be used.

    Its argument ``qv`` holds the part of the query that is multiplied by the values,
    which of a latent entry are the main part of the key.
    """
    module = _load("flash_attn_interface", f"build {HOPPER_BUILD}")
    if isinstance(module, str):
        return module
    if torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0):
        return "FlashAttention-3 needs a Hopper GPU"
    latent = layout.value_start < layout.key_width
    main = layout.value_width if latent else 0
    query_width = layout.key_width - main
    fits = query_width <= 64 and main in (256, 512) if latent else query_width <= 256
    if not fits or query_width == 0 or query_width % 8:
        return f"FlashAttention-3 has no kernel for entries of {main}+{query_width}"
    function = module.flash_attn_with_kvcache

    def kernel(
        q: Tensor, entries: Tensor, source: Tensor, seen: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        out, lse, *_ = function(
            q[..., main:],
            layout.keys(entries)[..., main:],
            layout.values(entries),
            qv=q[..., :main] if latent else None,
            cache_seqlens=seen,
            cache_batch_idx=source,
            softmax_scale=scale,
            return_softmax_lse=True,
        )
        return out, lse

    return kernel


def _load(name: str, remedy: str) -> ModuleType | str:
    """Import a package, or return why that failed and what to do."""
    if find_spec(name) is None:
        return f"{name} is not installed: {remedy}"
    try:
        return import_module(name)
    except ImportError as error:  # built for another torch or CUDA
        return f"{name} can't be loaded ({error}): {remedy}"


BACKEND = FlashAttnBackend()

"""Kernels of training: causal attention that returns its log-sum-exp, and its backward.

PyTorch's flash kernels keep nothing quadratic, but ``scaled_dot_product_attention``
hides the log-sum-exp that merging needs: so they are called by their own names. Their
backward is given an output and a log-sum-exp, which need not be those of the same call:
with the final ones of a softmax over more keys it yields exactly the share of these.

Letters: ``B`` rows, ``H`` heads, ``T`` queries and as many keys, ``d`` width of queries
and keys, ``e`` of values.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from espnet_mtla.errors import UserError
from espnet_mtla.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

aten = torch.ops.aten


class Kernel(Protocol):
    """Causal attention of ``q (B, H, T, d)`` over ``k``, ``v``, and its backward."""

    equal_widths: bool
    """Whether values must be as wide as keys (then callers pad them with zeros)."""

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        """Why the kernel cannot serve such queries; None where it can."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output ``(B, H, T, e)``, log-sum-exp ``(B, H, T)``, random state ``(2,)``."""

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k, v, given the ``final`` output and log-sum-exp."""


class CpuFlash:
    """PyTorch's blocked kernel for CPUs, in every floating type."""

    equal_widths = True

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        if q.device.type != "cpu":
            return "is for CPUs"
        return "has no dropout" if dropout > 0 else None

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, dropout, True, scale=scale
        )
        return out, lse, _no_state(q)

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del state
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, *qkv, *final, dropout, True, scale=scale
        )


class CudaFlash:
    """FlashAttention 2 as PyTorch ships it."""

    equal_widths = True

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        del dropout
        return _unsupported_on_cuda(q, widest=256, half_only=True)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, lse, _, _, _, _, state, *_ = aten._scaled_dot_product_flash_attention(
            q, k, v, dropout, True, False, scale=scale
        )
        return out, lse, state.view(torch.int64) if dropout > 0 else _no_state(q)

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys = qkv[0].size(2), qkv[1].size(2)
        unused = torch.empty((), dtype=torch.uint64, device=state.device)
        return aten._scaled_dot_product_flash_attention_backward(
            grad,
            *qkv,
            final[0],
            final[1].contiguous(),
            None,
            None,
            queries,
            keys,
            dropout,
            True,
            state.view(torch.uint64),
            unused,
            scale=scale,
        )


class CudaEfficient:
    """The memory-efficient kernel: float32 too, values of another width too."""

    equal_widths = False

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        if dropout > 0:
            return "keeps its random state on the host"
        return _unsupported_on_cuda(q, widest=256, half_only=False)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, dropout, True, scale=scale
        )
        return out, lse[..., : q.size(2)], _no_state(q)

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del state
        out, lse = final
        lse = F.pad(lse, (0, -lse.size(2) % 32), value=float("inf"))  # as it came
        host = torch.zeros((), dtype=torch.int64)
        wanted = [True, True, True, False]
        dq, dk, dv, _ = aten._scaled_dot_product_efficient_attention_backward(
            grad, *qkv, None, out, lse, host, host, dropout, wanted, True, scale=scale
        )
        return dq, dk, dv


class CudaCudnn:
    """cuDNN's kernel."""

    equal_widths = False

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        if dropout > 0:
            return "keeps its random state on the host"
        return _unsupported_on_cuda(q, widest=128, half_only=True)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, lse, *_ = aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, dropout, True, False, scale=scale
        )
        return out, lse.reshape(q.shape[:3]), _no_state(q)

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del state
        out, lse = final
        host = torch.zeros((), dtype=torch.int64)
        return aten._scaled_dot_product_cudnn_attention_backward(
            grad,
            *qkv,
            out,
            lse.contiguous().unsqueeze(-1),
            host,
            host,
            None,
            None,
            None,
            qkv[0].size(2),
            qkv[1].size(2),
            dropout,
            True,
            scale=scale,
        )


KERNELS: dict[str, Kernel] = {
    "cpu_flash": CpuFlash(),
    "cuda_flash": CudaFlash(),
    "cuda_efficient": CudaEfficient(),
    "cuda_cudnn": CudaCudnn(),
}
"""By name, in the order in which ``auto`` tries them.

FlashAttention takes all that cuDNN's takes, so cuDNN's runs on request alone.
"""

BLOCKED = "blocked"
"""Our own loop over blocks of queries (:mod:`.blocked`): anywhere, with dropout."""

FLEX = "flex"
"""FlexAttention (:mod:`.flex`), on request: on GPUs, with masks, without dropout."""

_asked_for = "auto"
_turns = Turns()
_named: set[str] = set()


@contextmanager
def training_kernel(name: str) -> Iterator[None]:
    """Meanwhile use this kernel: one of :data:`KERNELS`, blocked, flex, or auto.

    The choice is the process's: a backward may run in another thread than its forward.
    A second thread that makes one waits until the first is done.

    Raises:
        UserError: an unknown name; later, in training, where the kernel is unfit.
    """
    global _asked_for
    if name not in ("auto", *KERNELS, BLOCKED, FLEX):
        names = ", ".join(["auto", *KERNELS, BLOCKED, FLEX])
        raise UserError(f"training kernel: {name!r} given, one of {names} is needed")
    with _turns:
        before, _asked_for = _asked_for, name
        try:
            yield
        finally:
            _asked_for = before


def choose_kernel(q: Tensor, dropout: float) -> str:
    """Name of the kernel for such queries: the one asked for, or the first that can."""
    if _asked_for == BLOCKED:
        return BLOCKED
    if _asked_for != "auto":
        why = _unsupported_reason(_asked_for, q, dropout)
        if why is not None:
            raise UserError(f"training kernel: {_asked_for} {why}; use auto")
        return _asked_for
    # A list, since PyTorch 2.7 compiles no ``next``.
    fit = [name for name in KERNELS if _unsupported_reason(name, q, dropout) is None]
    name = fit[0] if fit else BLOCKED
    if name not in _named and not torch.compiler.is_compiling():
        _named.add(name)
        logging.info("attention in training: %s for %s on %s", name, q.dtype, q.device)
    return name


def leaves_choice() -> bool:
    """Whether no kernel is asked for by name."""
    return _asked_for == "auto"


def _unsupported_reason(name: str, q: Tensor, dropout: float) -> str | None:
    if name != FLEX:
        return KERNELS[name].unsupported_reason(q, dropout)
    if dropout > 0:
        return "has no dropout"
    return None if q.device.type == "cuda" else "is for NVIDIA GPUs"


def _unsupported_on_cuda(q: Tensor, widest: int, half_only: bool) -> str | None:
    if q.device.type != "cuda":
        return "is for NVIDIA GPUs"
    half = q.dtype in (torch.float16, torch.bfloat16)
    if not half and (half_only or q.dtype != torch.float32):
        return f"does not take {q.dtype}"
    multiple = 8 if half else 4
    if q.size(-1) % multiple or q.size(-1) > widest:
        return f"needs heads of a multiple of {multiple} numbers, at most {widest}"
    return None


def _no_state(q: Tensor) -> Tensor:
    return q.new_zeros(2, dtype=torch.int64)

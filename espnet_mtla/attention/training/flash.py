"""Kernels of training: causal attention that returns its log-sum-exp, and its backward.

``scaled_dot_product_attention`` does not return the log-sum-exp, which merging needs
(:mod:`.strided`). The kernels behind it do, so they are called by their own names in
``torch.ops.aten``.

Their backwards recompute the weights ``exp(score - lse)`` from a log-sum-exp, and use
the output only in ``grad . out``. Neither must come from the kernel's own forward. With
the ones of a softmax over more keys, the backward returns exactly the gradients of the
keys that it is passed; :mod:`.strided` has the derivation.

Letters: ``B`` rows, ``H`` heads, ``T`` queries and as many keys, ``d`` width of queries
and keys, ``e`` of values.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

# Positional arguments of the operators of aten.
CAUSAL = True
NO_BIAS = NO_LENGTHS = None
RETURN_LSE = True
NO_DEBUG_MASK = False


class Kernel(Protocol):
    """Causal attention of ``q (B, H, T, d)`` over ``k``, ``v``, and its backward."""

    equal_widths: bool
    """True if d and e must be equal; callers then pad with zeros."""

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        """Return why the kernel does not support such queries; None if it does."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute attention.

        Args:
            q: ``(B, H, T, d)``.
            k: ``(B, H, T, d)``.
            v: ``(B, H, T, e)``.
            scale: factor of the scores.
            dropout: probability of dropping a weight.

        Returns:
            Output ``(B, H, T, e)``, log-sum-exp ``(B, H, T)``, random state ``(2,)``.
        """

    def backward(
        self,
        grad: Tensor,
        qkv: tuple[Tensor, Tensor, Tensor],
        final: tuple[Tensor, Tensor],
        state: Tensor,
        scale: float,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute gradients of q, k and v.

        Args:
            grad: gradient of the final output, ``(B, H, T, e)``.
            qkv: as in the forward.
            final: output and log-sum-exp of the softmax over all keys, which may be
                more than ``k``.
            state: random state of the forward.
            scale: factor of the scores.
            dropout: probability of dropping a weight.
        """


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
            q, k, v, dropout, CAUSAL, scale=scale
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
            grad, *qkv, *final, dropout, CAUSAL, scale=scale
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
            q, k, v, dropout, CAUSAL, NO_DEBUG_MASK, scale=scale
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
        q, k, v = qkv
        out, lse = final
        unused = torch.empty((), dtype=torch.uint64, device=state.device)
        return aten._scaled_dot_product_flash_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.contiguous(),
            NO_LENGTHS,
            NO_LENGTHS,
            q.size(2),
            k.size(2),
            dropout,
            CAUSAL,
            state.view(torch.uint64),
            unused,
            scale=scale,
        )


class CudaEfficient:
    """The memory-efficient kernel: supports float32, and values of another width."""

    equal_widths = False

    def unsupported_reason(self, q: Tensor, dropout: float) -> str | None:
        if dropout > 0:
            return "keeps its random state on the host"
        return _unsupported_on_cuda(q, widest=256, half_only=False)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(
            q, k, v, NO_BIAS, RETURN_LSE, dropout, CAUSAL, scale=scale
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
        # The kernel reads whole blocks of 32 queries. With +inf the weights of those
        # that do not exist are exp(score - inf) = 0.
        lse = F.pad(lse, (0, -lse.size(2) % 32), value=float("inf"))
        seed = offset = torch.zeros((), dtype=torch.int64)  # unused without dropout
        of_q_k_v_bias = [True, True, True, False]
        dq, dk, dv, _ = aten._scaled_dot_product_efficient_attention_backward(
            grad,
            *qkv,
            NO_BIAS,
            out,
            lse,
            seed,
            offset,
            dropout,
            of_q_k_v_bias,
            CAUSAL,
            scale=scale,
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
            q, k, v, NO_BIAS, RETURN_LSE, dropout, CAUSAL, NO_DEBUG_MASK, scale=scale
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
        q, k, v = qkv
        out, lse = final
        seed = offset = torch.zeros((), dtype=torch.int64)  # unused without dropout
        return aten._scaled_dot_product_cudnn_attention_backward(
            grad,
            q,
            k,
            v,
            out,
            lse.contiguous().unsqueeze(-1),
            seed,
            offset,
            NO_BIAS,
            NO_LENGTHS,
            NO_LENGTHS,
            q.size(2),
            k.size(2),
            dropout,
            CAUSAL,
            scale=scale,
        )


KERNELS: dict[str, Kernel] = {
    "cpu_flash": CpuFlash(),
    "cuda_flash": CudaFlash(),
    "cuda_efficient": CudaEfficient(),
    "cuda_cudnn": CudaCudnn(),
}
"""By name, in the order in which ``auto`` tries them.

FlashAttention supports all that cuDNN's does, so ``auto`` never chooses cuDNN's.
"""


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

"""Who computes attention over a cache: one call, several back-ends, one registry.

A back-end is a module of this package with an object ``BACKEND``. Every such module can
be imported anywhere; what a machine lacks is what :meth:`DecodeBackend.unfit` says.

Letters: ``R`` rows (utterances for a shared prompt, hypotheses for a suffix), ``G``
heads of the entries, ``M`` queries, ``S`` entries, ``w`` entry width, ``d`` key width,
``e`` value width.
"""

from __future__ import annotations

import functools
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from espnet_mtla.errors import UserError

if TYPE_CHECKING:  # at run time ``torch`` is a module of this package
    import torch
    from torch import Tensor

    from espnet_mtla.attention.decoding.layout import EntryLayout

FASTEST_FIRST = ("triton", "flash_attn", "torch")
"""What ``auto`` tries, in this order; the names of this package's modules."""
CHOICES = ("auto", *FASTEST_FIRST)


class DecodeBackend(Protocol):
    """Attention over cached entries, and the merge of two such attentions.

    A back-end may have ``write_token`` too, which puts a new token into a latent cache
    in one launch (:meth:`.triton.TritonBackend.write_token`).
    """

    name: str

    def unsupported_reason(
        self, layout: EntryLayout, dtype: torch.dtype, device: torch.device
    ) -> str | None:
        """Why it can't serve such a cache, and what to install if that is it."""

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        layout: EntryLayout,
        visible: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Query m of row r over the first ``visible[r, m]`` entries of its row.

        Args:
            q: ``(R, G, M, d)``, in the space of the entries' keys.
            entries: ``(R, G, S, w)``, any strides but a dense last dimension. What
                stands behind the visible ones, NaN perhaps, has no influence.
            visible: ``(R, M)`` or ``(R, 1)`` int64; 0 is allowed.

        Returns:
            Output ``(R, G, M, e)`` in q's dtype, zeros where nothing is visible, and
            the log-sum-exp of the scores ``(R, G, M)``, there -inf; float32, or
            float64 for float64.
        """

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        """One attention from two over different entries, at least one not empty."""


def choose_backend(
    name: str, layout: EntryLayout, dtype: torch.dtype, device: torch.device
) -> DecodeBackend:
    """The back-end of that name, or with ``auto`` the fastest that fits; logged once.

    Raises:
        UserError: An unknown name, or one that is asked for and does not fit.
    """
    if name not in CHOICES:
        raise UserError(
            f"backend: {name!r} given, one of {', '.join(CHOICES)} is needed"
        )
    return _choose(name, layout, dtype, device)


@functools.cache
def _choose(
    name: str, layout: EntryLayout, dtype: torch.dtype, device: torch.device
) -> DecodeBackend:
    passed_over: list[str] = []
    for candidate in FASTEST_FIRST if name == "auto" else (name,):
        backend = import_module(f"{__name__}.{candidate}").BACKEND
        why = backend.unsupported_reason(layout, dtype, device)
        if why is None:
            _say(candidate, layout, dtype, device, passed_over)
            return backend
        passed_over.append(f"not {candidate}: {why}")
    raise UserError(f"backend {name}: {why}")


def _say(
    name: str,
    layout: EntryLayout,
    dtype: torch.dtype,
    device: torch.device,
    passed_over: list[str],
) -> None:
    logging.getLogger(__name__).info(
        "decode back-end %s for entries of %d x %d, %s on %s%s",
        *(name, layout.heads, layout.width, str(dtype).removeprefix("torch.")),
        device,
        "".join(f"; {why}" for why in passed_over),
    )

"""Decode-attention back-ends: implementations of attention over cached entries.

A back-end is a module of this package with an object ``BACKEND``. Each of them can be
imported on any machine; :meth:`DecodeBackend.unsupported_reason` says what is missing.

Letters: ``R`` rows (utterances of a shared prompt, hypotheses of a suffix), ``G`` heads
of the entries, ``M`` queries, ``S`` entries, ``w`` entry width, ``d`` key width, ``e``
value width.
"""

from __future__ import annotations

import functools
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from espnet_mtla.errors import UserError

if TYPE_CHECKING:  # at run time ``torch`` is a module of this package
    import torch
    from torch import Tensor, nn

    from espnet_mtla.attention.decoding.layout import EntryLayout
    from espnet_mtla.attention.decoding.timeline import TokenPlacement
    from espnet_mtla.attention.merge import HyperNetwork

FASTEST_FIRST = ("triton", "flash_attn", "torch")
"""Modules of this package, in the order in which ``auto`` tries them."""
CHOICES = ("auto", *FASTEST_FIRST)


class TokenWriter(Protocol):
    """A kernel that merges one new token a row into its latent entry, in place."""

    def __call__(
        self,
        raw: Tensor,
        norm: nn.LayerNorm,
        hypernet: HyperNetwork | None,
        placement: TokenPlacement,
        suffix: Tensor,
    ) -> None:
        """Write the entries, see :meth:`.triton.TritonBackend.write_token`."""


class DecodeBackend(Protocol):
    """Attention over cached entries, and the merge of two such attentions."""

    name: str

    @property
    def token_writer(self) -> TokenWriter | None:
        """Kernel that writes a token into a latent cache; None: there is none."""

    def unsupported_reason(
        self, layout: EntryLayout, dtype: torch.dtype, device: torch.device
    ) -> str | None:
        """Return why such a cache is not supported, or None; say what to install."""

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        layout: EntryLayout,
        visible: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute attention; query m of row r sees its first ``visible[r, m]`` entries.

        Args:
            q: queries in the space of the entries' keys, ``(R, G, M, d)``.
            entries: ``(R, G, S, w)``; any strides, but the last dimension is dense.
                Entries that are not visible may hold anything, NaN too.
            layout: where keys and values are in an entry.
            visible: int64, ``(R, M)``, or ``(R, 1)`` for all queries; 0 is allowed.
            scale: factor of the scores.

        Returns:
            Output ``(R, G, M, e)`` in q's dtype, 0 for queries that see nothing; and
            the log-sum-exp of the scores ``(R, G, M)``, -inf for these. The latter is
            float32, or float64 for float64.
        """

    def merge(self, a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
        """Combine attention outputs over two disjoint sets of entries into one.

        ``a`` and ``b`` are ``(..., e)``, their log-sum-exps ``(...)``. At least one
        of a query's two log-sum-exps must be finite.
        """


def choose_backend(
    name: str, layout: EntryLayout, dtype: torch.dtype, device: torch.device
) -> DecodeBackend:
    """Return the back-end of that name; ``auto``: the fastest that supports the cache.

    Args:
        name: one of :data:`CHOICES`.
        layout: of the cache's entries.
        dtype: of the entries.
        device: of the cache.

    Raises:
        UserError: the name is unknown, or that back-end does not support the cache.
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
            _log_choice(candidate, layout, dtype, device, passed_over)
            return backend
        passed_over.append(f"not {candidate}: {why}")
    raise UserError(f"backend {name}: {why}")


def _log_choice(
    name: str,
    layout: EntryLayout,
    dtype: torch.dtype,
    device: torch.device,
    passed_over: list[str],
) -> None:
    logging.getLogger(__name__).info(
        "decode back-end %s for entries of %d x %d, %s on %s%s",
        name,
        layout.heads,
        layout.width,
        str(dtype).removeprefix("torch."),
        device,
        "".join(f"; {why}" for why in passed_over),
    )

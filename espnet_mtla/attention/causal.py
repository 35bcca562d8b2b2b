"""What all attention types share: training, prefill and step over the same entries.

A type says how a token becomes a query and an entry (:class:`CausalAttention`'s hooks);
this class runs them. Rows are packed: an utterance's tokens start at index 0, padding
comes last, so causality alone keeps padding out and no key mask is needed.

Letters: ``B`` rows, ``T`` tokens, ``U`` queries, ``D`` model width, ``H`` query heads,
``G`` entry heads, ``w`` entry width, ``s`` stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from espnet_mtla.attention.attend import attend_causal, attend_strided
from espnet_mtla.attention.cache import EntryLayout, KVCache
from espnet_mtla.attention.cached import attend_cached
from espnet_mtla.attention.rope import rotary_angles


class CausalAttention(nn.Module):
    """Base of MHA, GQA, MQA, MLA and MTLA."""

    layout: EntryLayout
    rope_dim: int
    rope_base: float
    scale: float
    dropout: float

    # Hooks ---------------------------------------------------------------------------

    def queries(self, x: Tensor, angles: Tensor) -> Tensor:
        """``(B, U, D)`` and angles ``(B or 1, U, .)`` to queries ``(B, H, U, d)``."""
        raise NotImplementedError

    def entries(
        self,
        x: Tensor,
        angles: Tensor,
        start: Tensor | None = None,
        carry: Tensor | None = None,
    ) -> Tensor:
        """Running entries ``(B, G, T, w)``: what the cache holds after each token.

        ``start (B,)`` tokens came before, and ``carry (B, G, w)`` is the newest entry
        then; None where rows begin here.
        """
        raise NotImplementedError

    def expand(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Entries ``(B, G, S, w)`` to keys and values a head, for training."""
        raise NotImplementedError

    def absorb(self, q: Tensor) -> Tensor:
        """Queries to the space of the entries' keys, ``(N, H, U, key_width)``."""
        raise NotImplementedError

    def release(self, out: Tensor) -> Tensor:
        """What :meth:`absorb` did, undone on the values: ``(N, H, U, value_width)``."""
        raise NotImplementedError

    def project_out(self, out: Tensor) -> Tensor:
        """Heads ``(B, H, U, e)`` to ``(B, U, D)``."""
        raise NotImplementedError

    # The three ways to run -----------------------------------------------------------

    def angles(self, position: Tensor, dtype: torch.dtype) -> Tensor:
        """Rotary angles of ``position (..., T)``."""
        return rotary_angles(position, self.rope_dim, self.rope_base, dtype)

    def attend_all(
        self,
        x: Tensor,
        asking: Asking | None = None,
        angles: Tensor | None = None,
    ) -> Tensor:
        """Training: many queries at once, nothing cached (paper section 4.3).

        Args:
            x: packed rows ``(B, T, D)``.
            asking: the tokens that ask; None: all of them.
            angles: of each token, ``(B or 1, T, .)``; None: positions count from 0.

        Returns:
            ``(B, U, D)``.
        """
        if angles is None:
            angles = self.angles(
                torch.arange(x.size(1), device=x.device)[None], x.dtype
            )
        entries = self.entries(x, angles)
        return self._attend_entries(entries, asking or Asking.all_of(x), angles)

    def _attend_entries(
        self, entries: Tensor, asking: Asking, angles: Tensor
    ) -> Tensor:
        stride, dropout = self.layout.stride, self.dropout if self.training else 0.0
        q = self.queries(asking.x, asking.of(angles))
        if stride == 1:
            keys, values = self.expand(entries)
            visible = asking.index + 1
            out = attend_causal(q, keys, values, visible, self.scale, dropout)
        else:
            finished = self.expand(entries[:, :, stride - 1 :: stride])
            own = self.expand(asking.of(entries.transpose(1, 2)).transpose(1, 2))
            visible = asking.index // stride
            out = attend_strided(q, finished, own, visible, self.scale, dropout)
        return self.project_out(out)

    def prefill(
        self, x: Tensor, lengths: Tensor, capacity: int, ask: bool = True
    ) -> tuple[Tensor | None, KVCache]:
        """Put a prompt into a new cache.

        Args:
            x: packed prompts ``(B, T, D)``; lengths: their tokens, ``(B,)``.
            capacity: room for so many tokens a row after the prompt.
            ask: whether the prompt's own tokens attend too (recomputed prompt).

        Returns:
            Their output ``(B, T, D)``, or None where they do not ask, and the cache.
        """
        angles = self.angles(torch.arange(x.size(1), device=x.device)[None], x.dtype)
        entries = self.entries(x, angles)
        cache = KVCache.from_prompt(self.layout, entries, lengths, capacity)
        out = self._attend_entries(entries, Asking.all_of(x), angles) if ask else None
        return out, cache

    def extend(
        self,
        x: Tensor,
        cache: KVCache,
        lengths: Tensor | None = None,
        asking: Asking | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Append L tokens a row to the cache; each sees all before it and itself.

        Args:
            x: ``(N, L, D)``, packed; a decoding step has L = 1.
            lengths: real tokens of each row where they differ, ``(N,)``.
            asking: those of the L tokens that ask; None: all.
            position: rotary positions ``(N or 1, L)``; None: tokens seen by the row.

        Returns:
            ``(N, U, D)``.
        """
        stride, single = self.layout.stride, x.size(1) == 1 and lengths is None
        asking = asking or Asking.all_of(x)
        token = cache.seen.unsqueeze(1) + torch.arange(x.size(1), device=x.device)
        angles = self.angles(token if position is None else position, x.dtype)
        carry = cache.open_entry() if stride > 1 else None
        entries = self.entries(x, angles, cache.seen, carry)
        q = self.absorb(self.queries(asking.x, asking.of(angles)))
        slot = asking.of(token) // stride - cache.base.unsqueeze(1)
        cache.append(entries, lengths)
        # A single new token finds its own running entry in the suffix. Of several, each
        # sees its own chunk as it stood then, which later ones have overwritten.
        own = None if single else asking.of(entries.transpose(1, 2)).transpose(1, 2)
        out = attend_cached(q, cache, slot + 1 if single else slot, own, self.scale)
        return self.project_out(self.release(out))


@dataclass(frozen=True)
class Asking:
    """The tokens that ask: ``x (B, U, D)``, and their ``rank (B or 1, U)`` in the row.

    ``rank=None``: every token of the row asks.
    """

    x: Tensor
    rank: Tensor | None = None

    @classmethod
    def all_of(cls, x: Tensor) -> Asking:
        """Every token of ``x (B, T, D)``."""
        return cls(x)

    @property
    def index(self) -> Tensor:
        """Index in the row of each asking token, ``(B or 1, U)``."""
        if self.rank is not None:
            return self.rank
        return torch.arange(self.x.size(1), device=self.x.device).unsqueeze(0)

    def of(self, values: Tensor) -> Tensor:
        """What ``values (B or 1, T, ...)`` holds for them: ``(B or 1, U, ...)``."""
        return values if self.rank is None else take(values, self.rank)


def take(x: Tensor, index: Tensor) -> Tensor:
    """``x (B or 1, T, ...)`` at ``index (B or 1, U)`` of its second dimension."""
    batch = max(x.size(0), index.size(0))
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    return x.expand(batch, *x.shape[1:])[rows, index.expand(batch, -1)]

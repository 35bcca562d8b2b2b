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

from espnet_mtla.attention.config import LatentConfig, MultiheadConfig
from espnet_mtla.attention.decoding.attend import attend_to_prompt, attend_to_suffix
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import (
    DEFAULT_CACHE,
    CacheOptions,
    EntryLayout,
)
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.attention.rope import rotary_angles
from espnet_mtla.attention.training.attend import gather_tokens


class CausalAttention(nn.Module):
    """Base of MHA, GQA, MQA, MLA and MTLA."""

    settings: MultiheadConfig | LatentConfig
    layout: EntryLayout
    expand_from: int | None = None
    """Queries of each head from which expanding entries is faster."""
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
        placement: TokenPlacement | None = None,
        open_entry: Tensor | None = None,
    ) -> Tensor:
        """Running entries ``(B, G, T, w)``: what the cache holds after each token.

        ``new`` says where the tokens stand, and ``carry (B, G, w)`` is the entry that
        the first goes on with; None where rows begin here.
        """
        raise NotImplementedError

    def chunk_encodings(self, index: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What merging needs to know of the chunks of tokens ``index (N, L)``."""
        del index, dtype
        return None

    def attend(
        self, q: Tensor, entries: Tensor, query_index: Tensor | None, dropout: float
    ) -> Tensor:
        """Queries ``(B, H, U, d)`` over the running entries of whole rows, in training.

        ``rank (B or 1, U)`` is where a query stands in its row; None: query i is
        token i. Returns heads ``(B, H, U, e)``.
        """
        raise NotImplementedError

    def up_matrix(self, like: Tensor) -> Tensor | None:
        """Return what :meth:`absorb`, :meth:`release` and :meth:`expanded` multiply by.

        Reading it can take as long as a product (:mod:`.linear`), so it is read once a
        call and handed to all three; None there means that it is read on the spot.
        ``like`` gives the type and device of activations. None: they need nothing.
        """
        del like
        return None

    def expand(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Entries ``(B, G, S, w)`` to keys and values of :attr:`heads_layout`.

        Called where that is another layout than the type's own.
        """
        raise NotImplementedError

    def absorb(self, q: Tensor, up: Tensor | None = None) -> Tensor:
        """Queries to the space of the entries' keys, ``(N, H, U, key_width)``."""
        raise NotImplementedError

    def up_project(self, out: Tensor, up: Tensor | None = None) -> Tensor:
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
        query_tokens: QueryTokens | None = None,
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
        return self._attend_entries(entries, query_tokens or QueryTokens(x), angles)

    def _attend_entries(
        self, entries: Tensor, query_tokens: QueryTokens, angles: Tensor
    ) -> Tensor:
        q = self.queries(query_tokens.x, query_tokens.select(angles))
        dropout = self.dropout if self.training else 0.0
        return self.project_out(
            self.attend(q, entries, query_tokens.query_index, dropout)
        )

    def prefill(
        self,
        x: Tensor,
        lengths: Tensor,
        capacity: int,
        attend_prompt: bool = True,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> tuple[Tensor | None, KVCache]:
        """Put a prompt into a new cache.

        Args:
            x: packed prompts ``(B, T, D)``; lengths: their tokens, ``(B,)``.
            capacity: room for so many tokens a row after the prompt.
            ask: whether the prompt's own tokens attend too (recomputed prompt).
            options: how the cache is kept.

        Returns:
            Their output ``(B, T, D)``, or None where they do not ask, and the cache.
        """
        angles = self.angles(torch.arange(x.size(1), device=x.device)[None], x.dtype)
        entries = self.entries(x, angles)
        expanded = None
        if options.prompt == "heads":
            stride = self.layout.stride
            expanded = self.expanded(entries[:, :, stride - 1 :: stride])
        cache = KVCache.from_prompt(
            self.layout, entries, lengths, capacity, options, expanded
        )
        out = (
            self._attend_entries(entries, QueryTokens(x), angles)
            if attend_prompt
            else None
        )
        return out, cache

    def locate(
        self, timeline: Timeline, x: Tensor, position: Tensor | None = None
    ) -> TokenPlacement:
        """Take room for the new tokens ``x (N, L, .)`` of all rows and place them.

        ``position``: rotary positions ``(N or 1, L)``; None: tokens seen by the row.
        """
        timeline.reserve(x.size(1))
        start = timeline.num_tokens.clone()
        step = torch.arange(x.size(1), device=x.device)
        index = start.unsqueeze(1) + step
        stride = self.layout.stride
        return TokenPlacement(
            start=start,
            index=index,
            slot=index // stride - timeline.first_suffix_chunk.unsqueeze(1),
            angles=self.angles(index if position is None else position, x.dtype),
            is_open=(start % stride > 0).unsqueeze(1),
            chunk_encodings=self.chunk_encodings(index, x.dtype),
        )

    def extend(
        self,
        x: Tensor,
        cache: KVCache,
        lengths: Tensor | None = None,
        query_tokens: QueryTokens | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Append L tokens a row to a cache; each sees all before it and itself.

        Args:
            x: ``(N, L, D)``, packed; a decoding step has L = 1.
            lengths: real tokens of each row where they differ, ``(N,)``.
            asking: those of the L tokens that ask; None: all.
            position: rotary positions ``(N or 1, L)``; None: tokens seen by the row.

        Returns:
            ``(N, U, D)``.
        """
        placement = self.locate(cache.timeline, x, position)
        out = self.step(x, cache, placement, lengths, query_tokens)
        cache.timeline.advance(x.size(1) if lengths is None else lengths)
        return out

    def step(
        self,
        x: Tensor,
        cache: KVCache,
        placement: TokenPlacement,
        lengths: Tensor | None = None,
        query_tokens: QueryTokens | None = None,
    ) -> Tensor:
        """:meth:`extend` for tokens that are placed already; the timeline stays."""
        query_tokens = query_tokens or QueryTokens(x)
        q = self.queries(query_tokens.x, query_tokens.select(placement.angles))
        running, visible = None, placement.slot + 1
        if x.size(1) == 1 and lengths is None:
            # A single new token finds its own running entry in the suffix.
            self.write_token(x, cache, placement)
        else:
            # Of several, each sees its own chunk as it stood then, which later ones
            # overwrite.
            entries = self._write(x, cache, placement, lengths)
            running = query_tokens.select(entries.transpose(1, 2)).transpose(1, 2)
            visible = query_tokens.select(placement.slot)
        return self.project_out(self._attend_cached(q, cache, visible, running))

    def write_token(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> None:
        """Put one new token a row ``(N, 1, D)`` into the cache."""
        self._write(x, cache, placement)

    def _write(
        self,
        x: Tensor,
        cache: KVCache,
        placement: TokenPlacement,
        lengths: Tensor | None = None,
    ) -> Tensor:
        open_entry = cache.open_entry(placement) if self.layout.stride > 1 else None
        entries = self.entries(x, placement.angles, placement, open_entry)
        cache.write(entries, placement, lengths)
        return entries

    def _attend_cached(
        self, q: Tensor, cache: KVCache, visible: Tensor, running: Tensor | None
    ) -> Tensor:
        """Queries ``(N, H, L, .)`` over prompt and suffix: ``(N, H, L, d_V)``."""
        up = self.up_matrix(q)
        absorbed = self.absorb(q, up)
        out, lse = attend_to_suffix(absorbed, cache, visible, running, self.scale)
        if cache.prompt.size(2) == 0:
            return self.up_project(out, up)
        entries, layout = cache.prompt_entries(), cache.prompt_layout
        if layout is self.layout and self._should_expand(q, cache):
            layout, entries = self.expanded(entries, up)
        if layout is self.layout:
            found = attend_to_prompt(absorbed, entries, layout, cache, self.scale)
            return self.up_project(cache.backend.merge(*found, out, lse), up)
        found = attend_to_prompt(q, entries, layout, cache, self.scale)
        return cache.backend.merge(*found, self.up_project(out, up), lse)

    def expanded(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[EntryLayout, Tensor]:
        """Entries ``(B, G, S, w)`` as keys and values of each head, and their layout.

        Of types whose entries are that already, the same again.
        """
        if self.heads_layout is self.layout:
            return self.layout, entries
        return self.heads_layout, torch.cat(self.expand(entries, up), dim=-1)

    @property
    def heads_layout(self) -> EntryLayout:
        """What :meth:`expanded` makes; the type's own layout where that is the same."""
        return self.layout

    def cache_bytes(
        self,
        prompt: int,
        tokens: int,
        beam: int = 1,
        share_prompt: bool = True,
        itemsize: int = 4,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> int:
        """Bytes that one utterance fills, see :meth:`EntryLayout.cache_bytes`."""
        kept = self.prompt_layout(options)
        return self.layout.cache_bytes(
            prompt, tokens, beam, share_prompt, itemsize, options.dtype, kept
        )

    def prompt_layout(self, options: CacheOptions) -> EntryLayout:
        """What is kept of a prompt."""
        return self.heads_layout if options.prompt == "heads" else self.layout

    def _should_expand(self, q: Tensor, cache: KVCache) -> bool:
        """Whether so many queries an utterance are worth projecting the prompt up."""
        least = cache.options.expand_from
        if least is None:
            least = self.expand_from
        queries = q.size(2) * q.size(0) // cache.prompt.size(0)
        return least is not None and queries >= least


@dataclass(frozen=True)
class QueryTokens:
    """The tokens that ask: ``x (B, U, D)``, and their ``rank (B or 1, U)`` in the row.

    ``rank=None``: every token of the row asks.
    """

    x: Tensor
    query_index: Tensor | None = None

    @property
    def row_index(self) -> Tensor:
        """Index in the row of each asking token, ``(B or 1, U)``."""
        if self.query_index is not None:
            return self.query_index
        return torch.arange(self.x.size(1), device=self.x.device).unsqueeze(0)

    def select(self, values: Tensor) -> Tensor:
        """What ``values (B or 1, T, ...)`` holds for them: ``(B or 1, U, ...)``."""
        return (
            values
            if self.query_index is None
            else gather_tokens(values, self.query_index)
        )

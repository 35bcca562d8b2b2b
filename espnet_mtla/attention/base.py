"""Training, prefill and decoding, written once for all attention types.

A type fulfils the contract of :mod:`.contract`: it says how a token becomes a query and
a cache entry. :class:`CausalAttention` does the rest with these hooks.

Rows are packed: the tokens of an utterance start at index 0 and padding comes last.
The causal mask alone then hides padding, and no key mask is needed.

Letters: ``B`` rows in training and prefill, ``N`` rows in decoding, ``T`` tokens,
``L`` new tokens of a row, ``U`` queries, ``D`` model width, ``H`` query heads, ``d``
width of a head's query, ``e`` width of a head's value, ``G`` heads of an entry, ``S``
entries, ``w`` width of an entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_mtla.attention.contract import AttentionContract
from espnet_mtla.attention.decoding.attend import (
    attend_to_prompt,
    attend_to_suffix,
    attend_to_window,
)
from espnet_mtla.attention.decoding.cache import KVCache
from espnet_mtla.attention.decoding.layout import (
    DEFAULT_CACHE,
    CacheOptions,
    EntryLayout,
)
from espnet_mtla.attention.decoding.timeline import Timeline, TokenPlacement
from espnet_mtla.attention.decoding.window import WindowPlacement
from espnet_mtla.attention.query_tokens import QueryTokens as QueryTokens


class CausalAttention(AttentionContract):
    """Base class of all attention types: causal self-attention over packed rows."""

    # Training ------------------------------------------------------------------------

    def attend_all(
        self,
        x: Tensor,
        query_tokens: QueryTokens | None = None,
        angles: Tensor | None = None,
    ) -> Tensor:
        """Compute attention of many queries at once, without a cache (section 4.3).

        Args:
            x: packed rows, ``(B, T, D)``.
            query_tokens: tokens used as queries; None: all.
            angles: rotary angles of each token, ``(B or 1, T, rope_dim / 2)``; None:
                positions count from 0.

        Returns:
            ``(B, U, D)``.
        """
        if angles is None:
            angles = self._angles_from_zero(x)
        entries = self.entries(x, angles)
        return self._attend_entries(entries, query_tokens or QueryTokens(x), angles)

    def _angles_from_zero(self, x: Tensor) -> Tensor:
        """Return angles ``(1, T, rope_dim / 2)`` of positions 0 to T - 1."""
        position = torch.arange(x.size(1), device=x.device)
        return self.angles(position.unsqueeze(0), x.dtype)

    def _attend_entries(
        self, entries: Tensor, query_tokens: QueryTokens, angles: Tensor
    ) -> Tensor:
        q = self.queries(query_tokens.x, query_tokens.select(angles))
        dropout = self.dropout if self.training else 0.0
        return self.project_out(
            self.attend(q, entries, query_tokens.query_index, dropout)
        )

    # Decoding: the prompt ------------------------------------------------------------

    def prefill(
        self,
        x: Tensor,
        lengths: Tensor,
        capacity: int,
        attend_prompt: bool = True,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> tuple[Tensor | None, KVCache]:
        """Write prompts into a new cache.

        Args:
            x: packed prompts, ``(B, T, D)``.
            lengths: valid tokens of each, ``(B,)``.
            capacity: tokens a row that the cache has room for after the prompt.
            attend_prompt: compute attention of the prompt's own tokens too.
            options: how the cache is stored.

        Returns:
            Output of the prompt's tokens ``(B, T, D)``, None without
            ``attend_prompt``; and the cache.
        """
        angles = self._angles_from_zero(x)
        entries = self.entries(x, angles)
        expanded = None
        if options.prompt == "heads":
            running, _ = self.layout.split(entries)
            expanded = self.expanded(self.layout.finished(running))
        cache = KVCache.from_prompt(
            self.layout, entries, lengths, capacity, options, expanded
        )
        out = None
        if attend_prompt:
            out = self._attend_entries(entries, QueryTokens(x), angles)
        return out, cache

    # Decoding: new tokens ------------------------------------------------------------

    def extend(
        self,
        x: Tensor,
        cache: KVCache,
        lengths: Tensor | None = None,
        query_tokens: QueryTokens | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """Append L tokens to each row; each sees all tokens before it and itself.

        Args:
            x: packed new tokens, ``(N, L, D)``; L = 1 in a decoding step.
            cache: of this layer alone; its timeline is advanced.
            lengths: valid tokens of each row, ``(N,)``; None: all L.
            query_tokens: those of the L tokens used as queries; None: all.
            position: rotary positions, ``(N or 1, L)``; None: index in the row.

        Returns:
            ``(N, U, D)``.
        """
        placement = self.locate(cache.timeline, x, position)
        out = self.step(x, cache, placement, lengths, query_tokens)
        cache.timeline.advance(x.size(1) if lengths is None else lengths)
        return out

    def locate(
        self, timeline: Timeline, x: Tensor, position: Tensor | None = None
    ) -> TokenPlacement:
        """Reserve room for new tokens ``x (N, L, D)`` and compute where they stand.

        All layers of a decoder share the result. ``position (N or 1, L)`` are rotary
        positions; None: the index in the row.
        """
        timeline.reserve(x.size(1))
        start = timeline.num_tokens.clone()
        index = start.unsqueeze(1) + torch.arange(x.size(1), device=x.device)
        layout, first, begun = self.layout, index, start
        if layout.offset > 0:  # the first chunk lacks tokens
            first, begun = index + layout.offset, start + layout.offset
        window = None
        if layout.window > 0:
            window = WindowPlacement.locate(layout, timeline, index)
        return TokenPlacement(
            start=start,
            index=index,
            slot=first // layout.stride - timeline.first_suffix_chunk.unsqueeze(1),
            angles=self.angles(index if position is None else position, x.dtype),
            is_open=(begun % layout.stride > 0).unsqueeze(1),
            chunk_encodings=self.chunk_encodings(index, x.dtype),
            window=window,
        )

    def step(
        self,
        x: Tensor,
        cache: KVCache,
        placement: TokenPlacement,
        lengths: Tensor | None = None,
        query_tokens: QueryTokens | None = None,
    ) -> Tensor:
        """Do what :meth:`extend` does, for tokens located before.

        The timeline, which other layers share, is left as it is.
        """
        query_tokens = query_tokens or QueryTokens(x)
        q = self.queries(query_tokens.x, query_tokens.select(placement.angles))
        if placement.window is not None:
            ring = self._write_raw(x, cache, placement, placement.window, lengths)
            seen = placement.window
            if query_tokens.query_index is not None:
                seen = seen.select(query_tokens.select)
            return self.project_out(self._attend_windowed(q, cache, seen, ring))
        running, visible = None, placement.slot + 1
        if x.size(1) == 1 and lengths is None:
            # The suffix shows a single new token its running entry.
            self.write_token(x, cache, placement)
        else:
            # Of several tokens in a chunk, each sees the running entry as of itself.
            # The suffix holds that of the last one, so it shows finished chunks only.
            entries = self._write(x, cache, placement, lengths)
            running = query_tokens.select(entries.transpose(1, 2)).transpose(1, 2)
            visible = query_tokens.select(placement.slot)
        return self.project_out(self._attend_cached(q, cache, visible, running))

    def write_token(self, x: Tensor, cache: KVCache, placement: TokenPlacement) -> None:
        """Write one new token a row ``x (N, 1, D)`` into the cache."""
        if self.has_fused_write(cache):
            self.fused_write(x, cache, placement)
        else:
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

    def _write_raw(
        self,
        x: Tensor,
        cache: KVCache,
        placement: TokenPlacement,
        window: WindowPlacement,
        lengths: Tensor | None,
    ) -> Tensor:
        """Write new tokens; return the raw entries that ``window.hidden`` refers to.

        Several tokens can overwrite slots of the ring that the first of them still see.
        The ring is therefore read before they are written.
        """
        assert cache.raw is not None, "a cache with a window has raw entries"
        if x.size(1) == 1:
            self._write(x, cache, placement, lengths)
            return cache.raw.ring_entries(window.hidden.size(2))
        earlier = cache.raw.ring_entries(window.hidden.size(2) - x.size(1)).clone()
        _, new = self.layout.split(self._write(x, cache, placement, lengths))
        assert new is not None, "a type with a window computes raw entries"
        if lengths is not None:  # padding may hold NaN, and 0 times NaN is NaN
            step = torch.arange(x.size(1), device=x.device)
            padding = step >= lengths.unsqueeze(1)
            new = new.masked_fill(padding[:, None, :, None], 0.0)
        return torch.cat((earlier, new), dim=2)

    def _attend_windowed(
        self, q: Tensor, cache: KVCache, window: WindowPlacement, ring: Tensor
    ) -> Tensor:
        """Compute heads ``(N, H, L, e)`` of queries over raw tokens and chunks."""
        up = self.up_matrix(q)
        absorbed = self.absorb(q, up)
        part = attend_to_window(absorbed, cache, window, ring, self.scale)
        return self._merge_prompt(q, absorbed, cache, part, up, window.in_prompt)

    def _attend_cached(
        self, q: Tensor, cache: KVCache, visible: Tensor, running: Tensor | None
    ) -> Tensor:
        """Compute heads ``(N, H, L, e)`` of queries over prompt and suffix."""
        up = self.up_matrix(q)
        absorbed = self.absorb(q, up)
        part = attend_to_suffix(absorbed, cache, visible, running, self.scale)
        return self._merge_prompt(q, absorbed, cache, part, up)

    def _merge_prompt(
        self,
        q: Tensor,
        absorbed: Tensor,
        cache: KVCache,
        suffix: tuple[Tensor, Tensor],
        up: Tensor | None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Merge attention over the prompt into that over everything after it.

        Either part is a softmax of its own; the log-sum-exps merge them. If the prompt
        is read as entries, the merge comes before the up-projection, which is then done
        once; if it is read as heads, the suffix is projected up first.

        Args:
            q: queries, ``(N, H, L, d)``.
            absorbed: queries in the space of the entries' keys.
            cache: of this layer.
            suffix: output and log-sum-exp over everything after the prompt's chunks.
            up: see :meth:`up_matrix`.
            visible: chunks of the prompt that a query sees, ``(N, L)``; None: all.

        Returns:
            Heads, ``(N, H, L, e)``.
        """
        out, lse = suffix
        if cache.prompt.size(2) == 0:
            return self.up_project(out, up)
        entries, layout = cache.prompt_entries(), cache.prompt_layout
        if layout is self.layout and self._should_expand(q, cache):
            layout, entries = self.expanded(entries, up)
        if layout is self.layout:
            prompt = attend_to_prompt(
                absorbed, entries, layout, cache, self.scale, visible
            )
            return self.up_project(cache.backend.merge(*prompt, out, lse), up)
        prompt = attend_to_prompt(q, entries, layout, cache, self.scale, visible)
        return cache.backend.merge(*prompt, self.up_project(out, up), lse)

    def _should_expand(self, q: Tensor, cache: KVCache) -> bool:
        """Return True if an utterance has enough queries to project its prompt up."""
        threshold = cache.options.expand_from
        if threshold is None:
            threshold = self.expand_from
        queries = q.size(2) * q.size(0) // cache.prompt.size(0)
        return threshold is not None and queries >= threshold

    def expanded(
        self, entries: Tensor, up: Tensor | None = None
    ) -> tuple[EntryLayout, Tensor]:
        """Return :attr:`heads_layout`, and entries ``(B, G, S, w)`` laid out so.

        A type whose layout is that already gets its entries back.
        """
        if self.heads_layout is self.layout:
            return self.layout, entries
        return self.heads_layout, torch.cat(self.expand(entries, up), dim=-1)

    # Memory --------------------------------------------------------------------------

    def prompt_layout(self, options: CacheOptions) -> EntryLayout:
        """Return the layout in which a prompt is stored with these options."""
        return self.heads_layout if options.prompt == "heads" else self.layout

    def cache_bytes(
        self,
        prompt: int,
        tokens: int,
        beam: int = 1,
        share_prompt: bool = True,
        itemsize: int = 4,
        options: CacheOptions = DEFAULT_CACHE,
    ) -> int:
        """Return the bytes one utterance uses, see :meth:`EntryLayout.cache_bytes`."""
        return self.layout.cache_bytes(
            prompt,
            tokens,
            beam,
            share_prompt,
            itemsize,
            options.dtype,
            self.prompt_layout(options),
        )
